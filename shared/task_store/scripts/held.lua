-- Returns  the endpoint paths at which any task of one partition's queues holds a slot
return redis.call('SMEMBERS', TAG .. 'queues')
