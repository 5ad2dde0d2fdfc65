-- The indexes by path and state. They are the counts too, so a count cannot drift. A task of a named pipeline is in those of
-- that name too.
-- @include common/time_text
-- @include task/keys

local function add_to_index(id, rec, path)
  path = path or rec.p
  if rec.T and rec.s == 'created' and rec.z == 0 and rec.a == 1 then
    redis.call('ZADD', task_key('z:' .. path .. ':delayed'), time_text(rec.c), id)
    redis.call('ZADD', task_key('starts'), time_text(rec.q or rec.c), id)
    if path == rec.p then redis.call('SADD', task_key('delayed_paths'), path) end
  elseif rec.s == 'created' and rec.q and rec.q ~= rec.c then
    redis.call('ZADD', task_key('z:' .. path .. ':again'), time_text(rec.c), id)
    redis.call('ZADD', task_key('z:' .. path .. ':since'), time_text(rec.q), id)
  else
    redis.call('ZADD', task_key('z:' .. path .. ':' .. rec.s), time_text(rec.c), id)
  end
  if rec.Y and path ~= rec.Y then add_to_index(id, rec, rec.Y) end
end

local function remove_from_index(id, rec, path)
  path = path or rec.p
  if redis.call('ZREM', task_key('z:' .. path .. ':' .. rec.s), id) == 0 and rec.s == 'created' then
    redis.call('ZREM', task_key('z:' .. path .. ':again'), id)
    redis.call('ZREM', task_key('z:' .. path .. ':since'), id)
    -- Whatever it is now: a process of an earlier version, which starts one, knows no such index.
    if rec.T then
      redis.call('ZREM', task_key('z:' .. path .. ':delayed'), id)
      redis.call('ZREM', task_key('starts'), id)
      if redis.call('EXISTS', task_key('z:' .. path .. ':delayed')) == 0 then
        redis.call('SREM', task_key('delayed_paths'), path)
      end
    end
  end
  if rec.Y and path ~= rec.Y then remove_from_index(id, rec, rec.Y) end
end
