-- Counts the requests in flight at endpoints.
--
-- KEYS[1]  the hash tag of the fields' partition
-- ARGV     now (0: the server's clock), and the fields
-- Returns  for each {the sum of all reports, when the last one came or 0}, or nothing if there never was one
-- @include common/now_ms
-- @include requests/counted
local tag, now = KEYS[1], now_ms(tonumber(ARGV[1]))
local rows = {}
for at = 2, #ARGV do
  local field = ARGV[at]
  local raw = redis.call('HGET', requests_key(tag), field)
  local sum, unnamed_at = counted(tag, field, raw or '', now)
  local reported = sum and (redis.call('ZSCORE', requests_key(tag, 'last'), field) or unnamed_at or 0)
  rows[#rows + 1] = sum and { sum, tonumber(reported) } or false
end
return rows
