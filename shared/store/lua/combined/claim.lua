-- Claims an attempt for which an event has come, if it holds a slot of its queue. For a server that has all partitions.
--
-- KEYS     of two slots of a cluster, so that several servers refuse before it begins
-- ARGV     for each step: the hash tag of the task's partition, ARGV[1] of task/apply
-- Returns  for each step what task/apply returns, or its error
-- @include combined/each_step
-- @include combined/tag_of
-- @function apply_step task/apply
-- @include queue/hold_slot

return each_step(2, function(tag, packed)
  local step = cmsgpack.unpack(packed)
  step.slotless = function(rec)
    begin_queue(tag_of_path(rec.p), { now = step.now, path = rec.p })
    return not holds_slot(step.id .. '.' .. rec.a)
  end
  return apply_step(tag, step)
end)
