-- An outage is the backend's absence: no connection, no answer, no entry in the registry. It is the queue's matter. While
-- it lasts, one probe at a time goes out, and no attempt is lost by it.
-- @include queue/state

-- The backend is away, perhaps for a while already. `cause` is a text for callers.
local function begin_outage(queue, cause)
  queue.O = queue.O or queue_now
  redis.call('HSET', outages_key(queue_tag), queue_arg.path, cmsgpack.pack({ queue.O, 0, cause }))
end

-- The backend answers again.
local function end_failures(queue)
  if queue.O then
    local raw = redis.call('HGET', outages_key(queue_tag), queue_arg.path)
    local is_read, outage = pcall(cmsgpack.unpack, raw or '')
    local cause = is_read and type(outage) == 'table' and outage[3] or ''
    redis.call('HSET', outages_key(queue_tag), queue_arg.path, cmsgpack.pack({ queue.O, queue_now, cause }))
  end
  queue.o, queue.d, queue.O, queue.P = nil, nil, nil, nil
end
