-- Removes what is left of tasks whose records are gone: somebody deleted them, or Redis evicted them. What is left is their
-- deadlines, their contents, and what the indexes of the paths have of them.
-- @include task/keys
-- @include task/states
local function forget_lost(ids, paths)
  if #ids == 0 then return end
  redis.call('ZREM', task_key('due'), unpack(ids))
  redis.call('ZREM', task_key('starts'), unpack(ids))
  redis.call('ZREM', task_key('owed'), unpack(ids))
  for _, id in ipairs(ids) do
    redis.call('DEL', task_key('b:' .. id), task_key('r:' .. id), task_key('k:' .. id), task_key('n:' .. id), task_key('c:' .. id))
  end
  for _, path in ipairs(paths) do
    local indexes = all_states()
    indexes[#indexes + 1], indexes[#indexes + 2], indexes[#indexes + 3] = 'again', 'since', 'delayed'
    for _, index in ipairs(indexes) do redis.call('ZREM', task_key('z:' .. path .. ':' .. index), unpack(ids)) end
  end
end
