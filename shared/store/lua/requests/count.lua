-- Counts the requests in flight at one endpoint.
--
-- KEYS[1]  the hash tag of the field's partition
-- ARGV     now (0: the server's clock), field
-- Returns  the sum of all reports, or nothing if there never was one; see requests/keys.lua
-- @include common/now_ms
-- @include requests/keys
local now = now_ms(tonumber(ARGV[1]))
local raw = redis.call('HGET', requests_key(KEYS[1]), ARGV[2])
if not raw then return false end
local kept = cmsgpack.unpack(raw)
if #kept[2] == 0 then return false end
local named = kept[3][''] and kept[3][''][1] or 0
local ended = redis.call('ZRANGEBYSCORE', requests_key(KEYS[1], 'ends', ARGV[2]), '-inf', now)
for _, instance in ipairs(ended) do
  named = math.max(0, named - tonumber(redis.call('HGET', requests_key(KEYS[1], 'shares', ARGV[2]), instance) or 0))
end
local sum = math.max(0, unnamed(kept, now)) + named
for instance, share in pairs(kept[3]) do
  if instance ~= '' and share[2] > now then sum = sum + share[1] end
end
return sum
