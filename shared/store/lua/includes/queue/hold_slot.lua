-- @include common/time_text
-- @include queue/keys
local function holds_slot(entry) return redis.call('ZSCORE', held_key, entry) end

local function hold_slot(queue, entry)
  redis.call('ZADD', held_key, time_text(queue_now + queue_arg.claim), entry)
  queue.h = queue.h + 1
end
