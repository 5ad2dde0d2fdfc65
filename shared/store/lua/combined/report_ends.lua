-- Reports to a batch what became of its children, and forgets that this was to be reported. For a server that has all
-- partitions.
--
-- KEYS     of two slots of a cluster, so that several servers refuse before it begins
-- ARGV     for each step: the hash tag of the batch's partition, ARGV[1] of batch/report, and a packed map {the hash tag of a
--          partition of children = ARGV of batch/acknowledge}
-- Returns  for each step what batch/report returns, or its error
-- @include combined/each_step
-- @function report_step batch/report
return each_step(3, function(tag, packed, packed_ends)
  local reply = report_step(tag, packed)
  for ends_tag, ends in pairs(cmsgpack.unpack(packed_ends)) do
    task_tag = ends_tag
    redis.call('ZREM', task_key('ends'), unpack(ends))
  end
  return reply
end)
