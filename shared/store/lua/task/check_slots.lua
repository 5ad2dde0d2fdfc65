-- Checks whether tasks of one partition that have held a slot of their endpoint for a while still need it.
--
-- KEYS[1]  the hash tag of their partition
-- ARGV[1]  packed map: now, op, path, entries {{id, attempt}, …}, max_attempts, publish_base, cap, retention,
--          completion (ms), undelivered (status text), seed
-- Returns  {{what, id, attempt, record?, ms?}, …}:
--          'gone': it is finished, or elsewhere, or at another attempt, or has yet to start;
--          'publish': nobody has claimed it; its event is to be published again, which is counted; check again after ms;
--          'failed': it was published often enough
--          A replay is answered as the first time.
-- @include common/now_ms
-- @include task/backoff
-- @include task/forget_lost
-- @include task/give_up
-- @include task/is_delayed
-- @include task/readable_record
-- @include task/terminal
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local now = now_ms(arg.now)
math.randomseed(arg.seed)
local found = {}
for _, entry in ipairs(arg.entries) do
  local id, attempt = entry[1], entry[2]
  local rec, raw = readable_record(id)
  local replay = rec and rec.k == arg.op
  if not replay and (not rec or rec.p ~= arg.path or rec.a ~= attempt or is_terminal(rec.s) or is_delayed(rec)) then
    if not rec then forget_lost({ id }, { arg.path }) end
    found[#found + 1] = { 'gone', id, attempt }
  elseif replay or rec.s == 'created' then
    if not replay and rec.n >= arg.max_attempts then
      raw = give_up(id, rec, arg.undelivered, 'publishes', now, arg)
    elseif not replay then
      rec.n, rec.k = rec.n + 1, arg.op
      raw = save_record(id, rec)
    end
    if rec.s == 'failed' then
      found[#found + 1] = { 'failed', id, attempt, raw }
    else
      found[#found + 1] = { 'publish', id, attempt, raw, backoff(arg.publish_base, arg.cap, rec.n) }
    end
  end
end
return found
