-- Counts the requests in flight at one endpoint.
--
-- KEYS[1]  the hash tag of the field's partition
-- ARGV     now (0: the server's clock), field
-- Returns  the sum of all reports, or nothing if there never was one; see report.lua
-- @include common/now_ms
local now = now_ms(tonumber(ARGV[1]))
local raw = redis.call('HGET', KEYS[1] .. 'requests', ARGV[2])
if not raw then return false end
local kept = cmsgpack.unpack(raw)
local sum = math.max(0, kept[1])
for _, share in pairs(kept[3]) do
  if share[2] > now then sum = sum + share[1] end
end
return sum
