-- Stores a new task with its body, indexes and deadline. From here it is safe.
--
-- KEYS[1]  the hash tag of the task's partition
-- ARGV[1]  packed map: now, id, op, due_in (ms), actor, brief (status for the history), rec (the record without its times)
-- ARGV[2]  the inline body, or ''
-- Returns  {'created', now}: the caller knows the rest; to a replay {'created', record}
--          {'exists', record} if the id was taken: nothing changed, except that it can no longer be withdrawn
-- @include task/create_task
return create_task(KEYS[1], cmsgpack.unpack(ARGV[1]), ARGV[2])
