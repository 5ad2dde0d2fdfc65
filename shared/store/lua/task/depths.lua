-- Counts the tasks of one partition by path and state. Costs by paths, not by tasks.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV     now (0: the server's clock), and the endpoint paths
-- Returns  {{path, created, dispatched, running, completed, failed, cancelled, age of the oldest waiting in ms, since when
--          it waits, or 0, how many have yet to start, which are not in created}, …}
-- @include common/now_ms
-- @include task/keys
-- @include task/states
task_tag = KEYS[1]
local now = now_ms(tonumber(ARGV[1]))
local has_delayed = redis.call('EXISTS', task_key('delayed_paths')) == 1
local rows = {}
for i = 2, #ARGV do
  local path = ARGV[i]
  local row = { path }
  for _, state in ipairs(all_states()) do
    row[#row + 1] = redis.call('ZCARD', task_key('z:' .. path .. ':' .. state))
  end
  local again = redis.call('ZCARD', task_key('z:' .. path .. ':again'))
  local since, waits = now, false
  for index, count in pairs({ created = row[2], since = again }) do
    local oldest = count > 0 and redis.call('ZRANGE', task_key('z:' .. path .. ':' .. index), 0, 0, 'WITHSCORES') or {}
    since, waits = math.min(since, tonumber(oldest[2] or now)), waits or oldest[2]
  end
  row[2] = row[2] + again
  row[#row + 1] = now - since
  row[#row + 1] = waits and since or 0
  row[#row + 1] = has_delayed and redis.call('ZCARD', task_key('z:' .. path .. ':delayed')) or 0
  rows[#rows + 1] = row
end
return rows
