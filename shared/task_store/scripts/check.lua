-- Looks at tasks of one partition that have held a slot of their endpoint for a while: do they still need it?
--
-- ARGV[1]  packed map: now, op, path, turns {{id, attempt}, …}, max_attempts, publish_base, cap, retention,
--          announce (ms), seed
-- Returns  {{what, id, attempt, record?, ms?}, …}:
--          'gone': it is finished, or elsewhere, or at another attempt;
--          'publish': nobody has claimed it, its event is to be published again, which is counted; look again after ms;
--          'failed': that was done often enough
local arg = cmsgpack.unpack(ARGV[1])
local now = now_ms(arg.now)
math.randomseed(arg.seed)
local found = {}
for _, turn in ipairs(arg.turns) do
  local id, attempt = turn[1], turn[2]
  local rec = load(id)
  if not rec or rec.p ~= arg.path or rec.a ~= attempt or TERMINAL[rec.s] then
    found[#found + 1] = { 'gone', id, attempt }
  elseif rec.s == 'created' and rec.n >= arg.max_attempts then
    found[#found + 1] =
      { 'failed', id, attempt, give_up(id, rec, 'Failed - unable to send to backend service.', now, arg) }
  elseif rec.s == 'created' then
    rec.n = rec.n + 1
    found[#found + 1] = { 'publish', id, attempt, save(id, rec), backoff(arg.publish_base, arg.cap, rec.n) }
  end
end
return found
