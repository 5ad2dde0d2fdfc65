-- Removes finished tasks whose blobs are gone.
--
-- ARGV     their ids
-- Returns  how many were removed
local count = 0
for _, id in ipairs(ARGV) do
  local rec = load(id)
  if rec and TERMINAL[rec.s] then
    purge(id, rec)
    count = count + 1
  end
end
return count
