-- How long a destination is tried to be told of something: so long a task is kept for it too.
local CALL_KEPT_MS = 86400000
