-- Stores a new task and lets it wait in its endpoint's queue, unless the queue refuses it. For a server that has all
-- partitions.
--
-- KEYS     of two slots of a cluster, so that several servers refuse before it begins
-- ARGV     for each step: the hash tag of the task's partition, ARGV[1] and ARGV[2] of task/create, the hash tag of the
--          queue's partition, ARGV[1] of queue/enqueue without the entry and the path
-- Returns  for each step {what task/create returns, what queue/enqueue returns, or false if the id was taken}, or its error
-- @include combined/each_step
-- @include generated/default_priority
-- @include queue/enqueue_entries
-- @include task/create_task
-- @include task/withdraw_task
return each_step(5, function(tag, packed_new, body, path_tag, packed_enqueue)
  local new, arg = cmsgpack.unpack(packed_new), cmsgpack.unpack(packed_enqueue)
  new.now = now_ms(new.now)
  local rec, entry = new.rec, new.id .. '.1'
  arg.now, arg.path = new.now, rec.p
  arg.entries, arg.new = { { entry, rec.o or '', 0, rec.j or DEFAULT_PRIORITY } }, true
  arg.published = true
  local created = create_task(tag, new, body)
  if created[1] ~= 'created' then return { created, false } end
  arg.just_created = not created.replay
  local enqueued = enqueue_entries(path_tag, arg)
  -- If somebody learned of the task between this and the first try, it stays, and its deadline finds it.
  if enqueued[1] ~= 'enqueued' and withdraw_task(tag, new.id) == 0 then enqueued = { 'enqueued', {}, -1, false } end
  -- The first try may have granted it a slot that was reported to nobody.
  if created.replay and enqueued.held and redis.call('ZSCORE', enqueued.held, entry) then
    table.insert(enqueued[2], entry)
  end
  return { created, enqueued }
end)
