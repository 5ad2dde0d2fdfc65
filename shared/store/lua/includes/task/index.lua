-- The indexes by path and state. They are the counts too, so a count cannot drift.
-- @include common/time_text
-- @include task/keys

local function add_to_index(id, rec)
  if rec.s == 'created' and rec.q ~= rec.c then
    redis.call('ZADD', task_key('z:' .. rec.p .. ':again'), time_text(rec.c), id)
    redis.call('ZADD', task_key('z:' .. rec.p .. ':since'), time_text(rec.q), id)
  else
    redis.call('ZADD', task_key('z:' .. rec.p .. ':' .. rec.s), time_text(rec.c), id)
  end
end

local function remove_from_index(id, rec)
  if redis.call('ZREM', task_key('z:' .. rec.p .. ':' .. rec.s), id) == 0 and rec.s == 'created' then
    redis.call('ZREM', task_key('z:' .. rec.p .. ':again'), id)
    redis.call('ZREM', task_key('z:' .. rec.p .. ':since'), id)
  end
end
