-- Counts the requests in flight at one endpoint.
--
-- KEYS[1]  the hash tag of the field's partition
-- ARGV     now (0: the server's clock), field
-- Returns  the sum of all reports, or nothing if there never was one; see requests/keys.lua
-- @include common/now_ms
-- @include requests/counted
local raw = redis.call('HGET', requests_key(KEYS[1]), ARGV[2])
return raw and counted(KEYS[1], ARGV[2], raw, now_ms(tonumber(ARGV[1]))) or false
