-- Reads the records of tasks of one partition.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV     the tasks' ids
-- Returns  each one's record, or nothing if there is none
-- @include task/keys
task_tag = KEYS[1]
local records = {}
for index, id in ipairs(ARGV) do records[index] = redis.call('GET', task_key('t:' .. id)) end
return records
