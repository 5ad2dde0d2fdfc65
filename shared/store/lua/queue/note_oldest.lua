-- Notes how long the oldest entries have waited, as their tasks' indexes have it: a queue does not know it where some have
-- a higher priority, or once its oldest one has gone.
--
-- KEYS[1]  the hash tag of the paths' partition
-- ARGV[1]  packed map: now (0: the server's clock), oldest {{path, ms}, …}
-- @include queue/state
local arg = cmsgpack.unpack(ARGV[1])
for _, oldest in ipairs(arg.oldest) do
  begin_queue(KEYS[1], { now = arg.now, path = oldest[1] })
  local queue, since = load_queue(), queue_now - oldest[2]
  -- It was counted a moment ago.
  if queue.w > 0 and math.abs(since - (queue.S or 0)) > 1000 then
    queue.S = since
    save_queue()
  end
end
write_queues()
