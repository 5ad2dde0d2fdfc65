-- Tells which schedules of one partition are due. A sweep does so too: this one is for the moment itself, and costs nothing
-- else.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV     now (0: the server's clock), how many at most, in how many ms they are told again
-- Returns  {their names, and those of blobs that no schedule has; in how many ms the next one is due, 0 if it is to be asked
--          again now, or -1}
-- @include common/now_ms
-- @include schedule/take_due
task_tag = KEYS[1]
return { take_due_schedules(now_ms(tonumber(ARGV[1])), ARGV[2], tonumber(ARGV[3])) }
