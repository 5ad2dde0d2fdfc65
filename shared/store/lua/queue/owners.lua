-- Reads how many entries of some of the owners wait, and which entries hold a slot.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: from (how many owners are passed over), most (how many owners are read, and
--          how many entries)
-- Returns  {{owner, how many of its entries wait, …}, {entries that hold a slot; none unless from is 0}}
-- @include queue/state
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
load_queue()
local from, most = queue_arg.from, queue_arg.most
local waiting, holding = {}, {}
for _, owner in ipairs(redis.call('ZRANGE', owners_key, from, from + most - 1)) do
  waiting[#waiting + 1] = owner
  waiting[#waiting + 1] = count_entries(waiting_key(owner))
end
for _, entry in ipairs(from == 0 and redis.call('ZRANGE', held_key, 0, most - 1) or {}) do
  -- One whose name is none was written by somebody else.
  if string.find(entry, '^[!-~]+%.%d+$') then holding[#holding + 1] = entry end
end
write_queues()
return { waiting, holding }
