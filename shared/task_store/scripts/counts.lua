-- The depths of one partition's queues. The index is the count: it cannot drift. Costs by paths, not by tasks.
--
-- ARGV[1]  now (0: the server's clock)
-- ARGV[2]  one endpoint path, or '' for all
-- Returns  {{path, created, dispatched, running, completed, failed, cancelled, age of the oldest waiting in ms}, …}
local now = now_ms(tonumber(ARGV[1]))
local paths = ARGV[2] == '' and redis.call('SMEMBERS', PATHS) or { ARGV[2] }
local rows = {}
for _, path in ipairs(paths) do
  local row = { path }
  for _, state in ipairs({ 'created', 'dispatched', 'running', 'completed', 'failed', 'cancelled' }) do
    row[#row + 1] = redis.call('ZCARD', index_key(path, state))
  end
  local oldest = redis.call('ZRANGE', index_key(path, 'created'), 0, 0, 'WITHSCORES')
  row[#row + 1] = oldest[2] and math.max(0, now - tonumber(oldest[2])) or 0
  rows[#rows + 1] = row
end
return rows
