-- Sets a task's status text. `long` is {bytes, blob, digest} of the whole text if `text` is only its beginning.
local function set_status(rec, text, long)
  rec.x = text
  if long or rec.X then rec.X = long end
  if long then rec.g = true end
end

local function has_status(rec, text, long)
  return rec.x == text and (rec.X and rec.X[3]) == (long and long[3])
end
