-- Ends what a batch's deadline was for, and sets the next one. A batch in which nothing has happened for long is sealed.
--
-- KEYS[1]  the hash tag of its partition
-- ARGV[1]  packed map: now, id, checked (absent, or up to which place it was seen that the children exist, or reported what
--          became of them), look_again (true: the deadline was that of looking at all of them once more), is_cancelled
--          (true: the Then task of a cancelled batch is, too, or has ended), after (see batch/upkeep)
-- Returns  what batch/report returns
-- @include batch/children
-- @include batch/load_batch
-- @include batch/save_batch
-- @include batch/settle
-- @include common/now_ms
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local rec, raw = load_batch(arg.id)
if not rec then return { 'unknown' } end
local now, batch, shown = now_ms(arg.now), rec.G, shown_of(rec.G)
-- The server's clock was set back: what has begun begins now.
batch.Q, rec.m = math.min(batch.Q, now), math.min(rec.m, now)
local had_job = batch.J
-- Without the list of the children nobody can tell how those that have not ended end.
local is_lost = ended_children(batch) < batch.t and redis.call('EXISTS', task_key('c:' .. arg.id)) == 0
if is_lost then
  batch.f, batch.r = batch.t - batch.c - batch.x, 0
  batch.K, batch.M = batch.n, batch.n
end
local is_settled = ended_children(batch) == batch.t
if arg.checked and now >= batch.Q + upkeep(arg).grace then batch.K = math.max(batch.K, math.min(arg.checked, batch.M)) end
if arg.look_again and batch.K == batch.n and not is_settled then batch.K, batch.M = 0, 0 end
if batch.K >= batch.M and batch.M < batch.n then batch.M, batch.Q = batch.n, now end
-- Whoever was about to create the Then task has seen by then that the batch is cancelled, or never will.
if batch.J == 'cancel' and is_settled and (arg.is_cancelled or now >= rec.m + upkeep(arg).grace) then batch.J = nil end
local is_sealed = not batch.S and now >= rec.m + upkeep(arg).idle
if is_sealed or is_lost then
  batch.S = batch.S or is_sealed
  local is_transition = settle(arg.id, rec, now, arg)
  if not is_terminal(rec.s) then set_batch_due(arg.id, rec, now, arg) end
  return save_batch(arg.id, rec, now, shown, is_transition)
end
set_batch_due(arg.id, rec, now, arg)
if is_terminal(rec.s) and not had_job then return { 'kept', raw } end
return { 'kept', save_record(arg.id, rec) }
