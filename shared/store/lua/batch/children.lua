-- Reads some of a batch's children, in the order of registration or against it. Costs by what it reads.
--
-- KEYS[1]  the hash tag of the batch's partition
-- ARGV[1]  packed map: id, owner (absent: any), behind (a place; absent: from the beginning or the end), limit, last (the
--          place that is the last one to read; absent: all), newest_first, is_removed (true: a batch that is
--          being removed)
-- Returns  {record, {{child, place, what is known of it, sequence}, …}}, or {} if there is no such batch; see
--          batch/children.lua of the includes
-- @include batch/children
-- @include task/record
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local rec, raw = load_record(arg.id)
if not rec or not rec.G or (rec.Z or false) ~= (arg.is_removed or false) then return {} end
if arg.owner and arg.owner ~= (rec.o or '') then return {} end
local entries
if arg.newest_first then
  local from = arg.behind and '(' .. string.format('%d', arg.behind * PLACE) or '+inf'
  local key = task_key('c:' .. arg.id)
  entries = redis.call('ZREVRANGEBYSCORE', key, from, '-inf', 'WITHSCORES', 'LIMIT', 0, arg.limit)
else
  entries = children_behind(arg.id, arg.behind or 0, arg.limit, arg.last)
end
local children = {}
for i = 1, #entries, 2 do children[#children + 1] = { entries[i], parse_score(entries[i + 1]) } end
return { raw, children }
