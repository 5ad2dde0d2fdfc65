-- Stores a new task and lets it wait in the queue of its endpoint, unless that takes none.
--
-- Words    the tag of the task's partition, ARGV[1] and ARGV[2] as of create, the tag of the queue's partition, ARGV[1] as
--          of queue/offer, without the turn and the path
-- Returns  {what create returns, what queue/offer returns, or false where the id was taken}
return each(5, function(tag, packed_new, body, queue_tag, packed_offer)
  local new, offered = cmsgpack.unpack(packed_new), cmsgpack.unpack(packed_offer)
  new.now = now_ms(new.now)
  local rec, turn = new.rec, new.id .. '.1'
  offered.now, offered.path = new.now, rec.p
  offered.turns, offered.new = { { turn, rec.o or '', 0, rec.j or 5 } }, true
  local created = create({ tag }, { new, body })
  if created[1] == 'exists' then return { created, false } end
  offered.fresh = not created.replay
  local taken = offer({ queue_tag }, { offered })
  -- Where somebody was told of the task between this and the first try, it stays, and its deadline sees to it.
  if taken[1] ~= 'taken' and withdraw({ tag }, { new.id }) == 0 then taken = { 'taken', {}, -1, false } end
  -- The slot that it was granted the first time: nobody has heard of it.
  if created.replay and taken.held and redis.call('ZSCORE', taken.held, turn) then table.insert(taken[2], turn) end
  return { created, taken }
end)
