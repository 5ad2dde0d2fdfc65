-- Lists the endpoint paths that have tasks in one partition.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV[1]  '' for all, or '1' for those only that are not known to have none but tasks that have ended
-- Returns  the paths
-- @include task/keys
task_tag = KEYS[1]
if ARGV[1] ~= '' then return redis.call('SMEMBERS', task_key('paths')) end
return redis.call('SUNION', task_key('paths'), task_key('ended_paths'), task_key('delayed_paths'))
