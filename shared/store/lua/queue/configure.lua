-- Changes the operator's settings of a queue.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: set {paused, draining, limit}; an absent one stays, false resets one
-- Returns  {granted, ms}, see grant_slots.lua
-- @include queue/grant_slots
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
local queue, settings = load_queue(), queue_settings()
for name, value in pairs(queue_arg.set) do settings[name] = value or nil end
if next(settings) then
  redis.call('SET', settings_key, cmsgpack.pack(settings))
else
  redis.call('DEL', settings_key)
end
local granted, ms = grant_slots(queue)
write_queues()
return { granted, ms }
