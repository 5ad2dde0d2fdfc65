-- Stores a new task and lets it wait in its endpoint's queue; see combined/create_and_enqueue.lua.
-- @include generated/default_priority
-- @include queue/enqueue_entries
-- @include task/create_task
-- @late withdraw_task task/withdraw_task
local function create_queued(tag, packed_new, body, path_tag, packed_enqueue)
  local new, arg = cmsgpack.unpack(packed_new), cmsgpack.unpack(packed_enqueue)
  new.now = now_ms(new.now)
  local rec, entry = new.rec, new.id .. '.1'
  arg.now, arg.path = new.now, rec.p
  arg.entries, arg.new = { { entry, rec.o or '', 0, rec.j or DEFAULT_PRIORITY } }, true
  arg.published = true
  local created = create_task(tag, new, body)
  if created[1] ~= 'created' then return { created, false } end
  arg.just_created = not created.replay
  if rec.T then arg.later = rec.q or rec.c end
  local enqueued = enqueue_entries(path_tag, arg)
  -- If somebody learned of the task between this and the first try, it stays, and its deadline finds it.
  if enqueued[1] ~= 'enqueued' and withdraw_task(tag, new.id) == 0 then enqueued = { 'enqueued', {}, -1, false } end
  -- The first try may have granted it a slot that was reported to nobody.
  if created.replay and enqueued.held and redis.call('ZSCORE', enqueued.held, entry) then
    table.insert(enqueued[2], entry)
  end
  return { created, enqueued }
end
