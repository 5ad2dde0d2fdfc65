-- Forgets uploads that nobody can use any more, and whose blobs are deleted or a task's.
--
-- KEYS[1]  the hash tag of their partition
-- ARGV     their ids
-- @include task/keys
task_tag = KEYS[1]
for _, id in ipairs(ARGV) do
  redis.call('DEL', task_key('u:' .. id))
  redis.call('ZREM', task_key('due'), 'u/' .. id)
end
