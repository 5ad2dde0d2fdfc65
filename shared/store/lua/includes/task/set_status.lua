-- Sets a task's status text. `long` is {bytes, blob, digest} of the whole text if `text` is only its beginning.
local function set_status(rec, text, long)
  rec.x, rec.X, rec.g = text, long, rec.g or long ~= nil or nil
end

local function has_status(rec, text, long)
  return rec.x == text and (rec.X and rec.X[3]) == (long and long[3])
end
