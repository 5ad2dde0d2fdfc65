-- Begins a round of the reconciler, unless another process has the rounds. The process that begins one has them for a
-- while.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV[1]  packed map: now (0: the server's clock), process (the caller's name), ms (for how long it has the rounds)
-- Returns  {1 if the round is the caller's, else 0; 1 while events stay unclaimed, else 0}
-- @include common/now_ms
-- @include reconciler/key
local arg = cmsgpack.unpack(ARGV[1])
local key, now = reconciler_key(KEYS[1]), now_ms(arg.now)
local process, until_ms, unclaimed = unpack(redis.call('HMGET', key, 'process', 'until', 'unclaimed'))
-- What is no time was written by somebody else: nobody has the rounds.
local left_ms = process and (tonumber(until_ms or '') or now) - now or 0
-- More than it ever is: the clock is that of another server now, and behind.
local is_free = left_ms <= 0 or left_ms > arg.ms or process == arg.process
if is_free then
  redis.call('HSET', key, 'process', arg.process, 'until', string.format('%d', now + arg.ms))
end
return { is_free and 1 or 0, unclaimed and 1 or 0 }
