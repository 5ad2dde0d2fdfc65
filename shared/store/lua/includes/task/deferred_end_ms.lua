-- How long an end is deferred of which it is not sure that it is the task's: until then, another report takes it back.
local DEFERRED_END_MS = 30000
