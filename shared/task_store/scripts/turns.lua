-- The tasks of one partition that wait at an endpoint or are in its backend's hands: for a queue that is rebuilt.
--
-- ARGV[1]  packed map: path, state (or 'again', see lib.lua), skip, limit
-- Returns  {how many entries were looked at, {{id, attempt, owner, queued at, priority}, …}}, newest first: what comes
--          or goes meanwhile hides none of the others
local arg = cmsgpack.unpack(ARGV[1])
local ids = redis.call('ZREVRANGE', index_key(arg.path, arg.state), arg.skip, arg.skip + arg.limit - 1)
local turns = {}
for _, id in ipairs(ids) do
  local rec = load(id)
  if rec and rec.w and (rec.z ~= 0 or rec.s ~= 'created') then
    turns[#turns + 1] = { id, rec.a, rec.o or '', rec.q, rec.j or 5 }
  end
end
return { #ids, turns }
