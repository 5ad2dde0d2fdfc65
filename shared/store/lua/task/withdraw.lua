-- Removes a task that was created a moment ago and that its queue refused, before anybody was informed of it.
--
-- KEYS[1]  the hash tag of the task's partition
-- ARGV[1]  its id
-- Returns  1 if there is none now; 0 if somebody was informed of it or it has gone on: it stays
-- @include task/withdraw_task
return withdraw_task(KEYS[1], ARGV[1])
