-- Changes the operator's settings of a queue.
--
-- ARGV[1]  and: set {paused, draining, limit}: what is absent stays, false is taken back
-- Returns  {granted, ms}
local queue, set = load(), settings()
for name, value in pairs(arg.set) do set[name] = value or nil end
if next(set) then redis.call('SET', SETTINGS, cmsgpack.pack(set)) else redis.call('DEL', SETTINGS) end
return { hand_on(queue) }
