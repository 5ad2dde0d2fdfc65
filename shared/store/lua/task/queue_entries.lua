-- Lists the tasks of one partition that wait at an endpoint or that its backend holds, for a queue that is rebuilt.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV[1]  packed map: path, state (or 'again', see task/keys.lua), skip, limit
-- Returns  {how many index entries were read, {{id, attempt, owner, queued at, priority}, …}}, newest first, so that
--          tasks that come or go meanwhile hide none of the others
-- @include generated/default_priority
-- @include task/readable_record
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local ids = redis.call('ZREVRANGE', task_key('z:' .. arg.path .. ':' .. arg.state), arg.skip, arg.skip + arg.limit - 1)
local entries = {}
for _, id in ipairs(ids) do
  local rec = readable_record(id)
  if rec and rec.w and (rec.z ~= 0 or rec.s ~= 'created') then
    entries[#entries + 1] = { id, rec.a, rec.o or '', rec.q or rec.c, rec.j or DEFAULT_PRIORITY }
  end
end
return { #ids, entries }
