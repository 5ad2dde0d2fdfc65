-- Changes the operator's settings of a queue.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: set {paused, draining, limit, rate, burst}; an absent one stays, false
--          resets one; by (the operator's name; absent: not known)
-- Returns  {granted, ms}, see grant_slots.lua
-- @include queue/grant_slots
-- @include queue/keep_settings
begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
local arg, queue, settings = queue_arg, load_queue(), queue_settings()
for name, value in pairs(arg.set) do settings[name] = value or nil end
if next(arg.set) then settings.at, settings.by = queue_now, arg.by end
keep_settings(queue, settings)
-- A new rate counts from now on.
if arg.set.rate then queue.L = queue.L or { o = 0 } end
local granted, ms = grant_slots(queue)
write_queues()
return { granted, ms }
