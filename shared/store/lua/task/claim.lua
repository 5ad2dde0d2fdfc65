-- Claims a waiting task's attempt for a dispatcher.
--
-- KEYS[1]  the hash tag of the task's partition
-- ARGV[1]  packed map: now, op, id, attempt (absent: the current one), window (ms within which the claimant records what
--          the backend answered; then the task is tried again)
-- Returns  what apply.lua returns, with the inline body
-- @include task/claim_attempt
return claim_attempt(KEYS[1], cmsgpack.unpack(ARGV[1]))
