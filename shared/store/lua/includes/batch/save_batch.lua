-- @include batch/children
-- @include task/record

-- Of what a waiting caller is informed, beside transitions: each percent, whether it is sealed, and the Then task.
local function shown_of(batch)
  local percent = batch.t > 0 and math.floor(100 * ended_children(batch) / batch.t) or 0
  return percent + (batch.S and 1000 or 0) + (batch.e and 2000 or 0)
end

-- Stores a batch that was changed; `shown` is what it showed before. Returns what the script does, as apply.lua.
local function save_batch(id, rec, now, shown, is_transition)
  rec.m, rec.v, rec.d = now, rec.v + 1, nil
  local raw = save_record(id, rec, is_transition or shown_of(rec.G) ~= shown)
  if is_transition then return { 'applied', raw, false, rec.a, false, false, false } end
  return { 'kept', raw }
end
