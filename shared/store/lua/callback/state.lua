-- How a destination has answered last.
--
-- KEYS[1]  the hash tag of the partition that has the destinations
-- ARGV[1]  its name
-- Returns  a packed list {answer, when, since when it fails or false}; nil if it was never called
-- @include task/keys
task_tag = KEYS[1]
return redis.call('HGET', task_key('called'), ARGV[1])
