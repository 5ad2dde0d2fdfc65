-- Looks at tasks of one partition that have held a slot of their endpoint for a while: do they still need it?
--
-- ARGV[1]  packed map: now, op, path, turns {{id, attempt}, …}, max_attempts, publish_base, cap, retention,
--          announce (ms), seed
-- Returns  {{what, id, attempt, record?, ms?}, …}:
--          'gone': it is finished, or elsewhere, or at another attempt;
--          'publish': nobody has claimed it, its event is to be published again, which is counted; look again after ms;
--          'failed': that was done often enough
--          A replay is answered as the first time.
local arg = cmsgpack.unpack(ARGV[1])
local now = now_ms(arg.now)
math.randomseed(arg.seed)
local found = {}
for _, turn in ipairs(arg.turns) do
  local id, attempt = turn[1], turn[2]
  local rec, raw = load(id)
  local replay = rec and rec.k == arg.op
  if not replay and (not rec or rec.p ~= arg.path or rec.a ~= attempt or TERMINAL[rec.s]) then
    found[#found + 1] = { 'gone', id, attempt }
  elseif replay or rec.s == 'created' then
    if not replay and rec.n >= arg.max_attempts then
      raw = give_up(id, rec, 'Failed - unable to send to backend service.', now, arg)
    elseif not replay then
      rec.n, rec.k = rec.n + 1, arg.op
      raw = save(id, rec)
    end
    if rec.s == 'failed' then
      found[#found + 1] = { 'failed', id, attempt, raw }
    else
      found[#found + 1] = { 'publish', id, attempt, raw, backoff(arg.publish_base, arg.cap, rec.n) }
    end
  end
end
return found
