-- Lists the endpoint paths in one partition that have settings of an operator, by the record of these.
--
-- KEYS[1]  the hash tag of the partition
-- Returns  the paths
-- @include queue/keys
local paths = redis.pcall('HKEYS', KEYS[1] .. SETTINGS_RECORD)
return paths.err and {} or paths
