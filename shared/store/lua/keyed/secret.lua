-- The secret from which ids are derived for idempotency keys, drawn by the first process that asks.
--
--   <tag>keyed  string   the secret in hexadecimal, when it was drawn (ms), and until when (ms) another version of the
--                        app, which knows no secret, may be at work beside this one; one partition has it
--
-- KEYS[1]  the hash tag of the partition
-- ARGV     now (0: the server's clock), a secret to keep if there is none, and for how long (ms) the other version may
--          be at work
-- Returns  {the secret, ms since it was drawn, 1 while the other version may be at work, else 0}
-- @include common/now_ms
local key, now = KEYS[1] .. 'keyed', now_ms(tonumber(ARGV[1]))
local kept = redis.pcall('GET', key)
local secret, drawn, beside
if type(kept) == 'string' then secret, drawn, beside = kept:match('^(%x+) (%d+) (%d+)$') end
if not secret then
  -- Without a task of an earlier version there is none that a caller could repeat at the other one.
  local was_used = redis.call('EXISTS', KEYS[1] .. 'paths', KEYS[1] .. 'due') > 0
  secret, drawn, beside = ARGV[2], now, was_used and now + tonumber(ARGV[3]) or 0
  redis.call('SET', key, string.format('%s %d %d', secret, drawn, beside))
end
return { secret, math.max(0, now - tonumber(drawn)), now < tonumber(beside) and 1 or 0 }
