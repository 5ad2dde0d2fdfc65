-- Notes that a backend accepted a task, or that it was found away.
--
-- KEYS[1]  the hash tag of the backend's partition
-- ARGV[1]  the backend's registered prefix
-- ARGV[2]  for how many ms it counts as answering; 0: it is away
local key = KEYS[1] .. 'answers:' .. ARGV[1]
if ARGV[2] == '0' then return redis.call('DEL', key) end
return redis.call('SET', key, '', 'PX', ARGV[2])
