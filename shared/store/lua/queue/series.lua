-- Reads rows of the series of one endpoint path. It writes nothing.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map: path, span (1, 2 or 3 of SERIES_SPANS), most (how many of the latest rows)
-- Returns  {the rows, the earliest first; the queue's state or false}, all packed
-- @include queue/series_keys
local arg = cmsgpack.unpack(ARGV[1])
local rows = redis.call('LRANGE', KEYS[1] .. SERIES_SPANS[arg.span][1] .. arg.path, -arg.most, -1)
return { rows, redis.call('GET', KEYS[1] .. 'q:' .. arg.path) }
