-- Reads some of the entries that wait in a queue, drawn by chance.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: seed, most (how many)
-- Returns  {{owner, entry, …}, …}
-- @include queue/remove_entry
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
math.randomseed(queue_arg.seed)
local queue = load_queue()
local left, rows = queue_arg.most, {}
local owners = redis.call('ZCARD', owners_key)
local first = owners > 0 and math.random(0, owners - 1) or 0
for nth = first, first + math.min(owners, left) - 1 do
  if left <= 0 then break end
  local at = nth % owners
  local owner = redis.call('ZRANGE', owners_key, at, at)[1]
  local key = waiting_key(owner)
  local count = redis.call('ZCARD', key)
  local from = count > left and math.random(0, count - left) or 0
  local entries = redis.call('ZRANGE', key, from, from + left - 1)
  left = left - #entries
  local row = { owner }
  for _, entry in ipairs(entries) do
    -- One whose name is none was written by somebody else.
    if string.find(entry, '^[!-~]+%.%d+$') then
      row[#row + 1] = entry
    else
      stop_waiting(queue, entry, owner)
      save_queue()
    end
  end
  rows[#rows + 1] = row
end
write_queues()
return rows
