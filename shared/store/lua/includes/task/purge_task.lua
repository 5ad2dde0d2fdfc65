-- Removes everything of a task but its blobs, which were deleted before. To look for an absent key costs as much as to
-- delete it, and among a million tasks more; so only the keys that the record names are deleted.
-- @include task/forget_unused_path
-- @include task/index
-- @include task/keys
local function purge_task(id, rec)
  local keys = { task_key('t:' .. id) }
  if rec.b and not rec.b[3] then table.insert(keys, task_key('b:' .. id)) end
  if rec.r and not rec.r[3] then table.insert(keys, task_key('r:' .. id)) end
  if rec.G then table.insert(keys, task_key('c:' .. id)) end
  if rec.N then table.insert(keys, task_key('n:' .. id)) end
  redis.call('DEL', unpack(keys))
  redis.call('ZREM', task_key('due'), id)
  if rec.J then
    for _, index in ipairs({ 'owed', 'calls:' .. rec.J.d, 'uncalled:' .. rec.J.d }) do redis.call('ZREM', task_key(index), id) end
  end
  remove_from_index(id, rec)
  forget_unused_path(rec.p, rec.s)
end
