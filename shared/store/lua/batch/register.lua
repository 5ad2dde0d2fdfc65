-- Registers children at their batch, before they are created. For a server that has the batch and not the children.
--
-- KEYS[1]  the hash tag of the batch's partition
-- ARGV[1]  packed map: now, id, children {{child, owner}, …}, most (children of a batch), after (see
--          batch/upkeep)
-- Returns  {now, for each child what batch/registration returns}
-- @include batch/load_batch
-- @include batch/registration
-- @include common/now_ms
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local rec = load_batch(arg.id)
local now, done, is_changed = now_ms(arg.now), {}, false
for i, asked in ipairs(arg.children) do
  local register, refusal = registration(arg.id, rec, asked[1], asked[2], now, arg)
  is_changed = is_changed or register
  done[i] = register and register() or refusal
end
if is_changed then
  rec.m, rec.v, rec.d = now, rec.v + 1, nil
  save_record(arg.id, rec)
end
return { now, done }
