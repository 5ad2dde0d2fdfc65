-- Stores a new task that is a batch's child, registers it there, and lets it wait in its endpoint's queue, unless batch or
-- queue refuse it. For a server that has all partitions: none of it is ever done without the rest.
--
-- KEYS     of two slots of a cluster, so that several servers refuse before it begins
-- ARGV     for each step: those of combined/create_and_enqueue, the hash tag of the batch's partition, and a packed map:
--          now, id (the batch's), child, owner, most (children of a batch), after (see batch/upkeep)
-- Returns  for each step what combined/create_and_enqueue returns, or {{'refused', see batch/registration}, false}; or its
--          error
-- @include batch/load_batch
-- @include batch/registration
-- @include combined/create_queued
-- @include combined/each_step
local batches, changed = {}, {}

local replies = each_step(7, function(tag, packed_new, body, path_tag, packed_enqueue, batch_tag, packed)
  local arg = cmsgpack.unpack(packed)
  local now = now_ms(arg.now)
  task_tag = batch_tag
  -- Children that come together are mostly of one batch.
  local rec = batches[arg.id] or load_batch(arg.id)
  batches[arg.id] = rec
  local register, refusal = registration(arg.id, rec, arg.child, arg.owner, now, arg)
  task_tag = tag
  -- Whoever repeats a create is told of its task, whatever has become of the batch since.
  if refusal and redis.call('EXISTS', task_key('t:' .. arg.child)) == 0 then return { { 'refused', refusal }, false } end
  local is_done, reply = pcall(create_queued, tag, packed_new, body, path_tag, packed_enqueue)
  if not is_done or reply[1][1] == 'created' and not reply[1].replay and reply[2][1] == 'enqueued' then
    task_tag = batch_tag
    register()
    rec.m = now
    changed[arg.id] = batch_tag
  end
  if not is_done then error(reply, 0) end
  return reply
end)
write_queues()
for id, batch_tag in pairs(changed) do
  local rec = batches[id]
  task_tag = batch_tag
  rec.v, rec.d = rec.v + 1, nil
  save_record(id, rec)
end
return replies
