-- Tells those that listen how changes are published on this server, see save_record in task/record.
--
-- KEYS     none
-- Returns  'SPUBLISH' or 'PUBLISH'
return redis.REDIS_VERSION_NUM and 'SPUBLISH' or 'PUBLISH'
