-- The record of a batch that was not removed; nil for any other id, and for another owner than `owner` if one is given.
-- @include task/record
local function load_batch(id, owner)
  local rec, raw = load_record(id)
  if rec and rec.G and not rec.Z and (not owner or owner == (rec.o or '')) then return rec, raw end
end
