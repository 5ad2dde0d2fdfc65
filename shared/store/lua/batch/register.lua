-- Registers a child at its batch, before the child is created. A child that is registered and was not seen yet may be
-- registered again; its earlier registrations do not count any more.
--
-- KEYS[1]  the hash tag of the batch's partition
-- ARGV[1]  packed map: now, id, child, owner (the child's), most (children), and what set_batch_due takes
-- Returns  {'registered', now, which registration of the child it is}
--          {'unknown'}   there is no such batch of that owner
--          {'sealed' | 'full'}
-- @include batch/children
-- @include batch/load_batch
-- @include batch/set_batch_due
-- @include common/now_ms
-- @include task/terminal
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local rec = load_batch(arg.id, arg.owner)
if not rec then return { 'unknown' } end
local now, batch = now_ms(arg.now), rec.G
local place, known, sequence = find_child(arg.id, arg.child)
-- Of a child that was seen, this is another one: the first was removed meanwhile.
local is_awaited = place and known == REGISTERED and place > batch.K
if is_terminal(rec.s) or batch.S and not is_awaited then return { 'sealed' } end
if is_awaited then
  sequence = sequence + 1
  batch.M = math.min(batch.M, place - 1)
else
  if not place and batch.t >= arg.most or batch.n >= 2 ^ 20 - 1 then return { 'full' } end
  if place then count_child(batch, known, -1) else batch.t = batch.t + 1 end
  local is_first = batch.K == batch.n
  batch.n = batch.n + 1
  place, sequence = batch.n, 1
  if is_first then set_batch_due(arg.id, rec, now, arg) end
end
set_child(arg.id, arg.child, place, REGISTERED, sequence)
rec.m, rec.v, rec.d = now, rec.v + 1, nil
save_record(arg.id, rec)
return { 'registered', now, sequence }
