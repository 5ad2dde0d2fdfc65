-- The blobs that a record names: body, result, whole status text, checkpoint. The caller of a step compares them with those
-- that it names afterwards. Asked only of records that had a blob (g).
local function named_blobs(rec)
  return {
    rec.b and rec.b[3] or false, rec.r and rec.r[3] or false, rec.X and rec.X[2] or false, rec.C and rec.C[3] or false,
  }
end
