-- How long an end is deferred of which it is not sure that it is the task's: until then, another report takes it back.
local DEFERRED_END_MS = 30000

-- Whether the record's deferred end takes effect when it is due. One that was reported before the backend accepted the
-- attempt does not: it was the previous step's, or the dispatcher died, and the task is tried again.
local function end_is_due(rec) return rec.E and (rec.s ~= 'dispatched' or rec.A) end

-- Whether the slot is free while the record's end is deferred. The service ends its tasks by text, and is done; so no
-- slot stands idle until the end takes effect. Of a step that was not heard of, it may be the previous one's end.
local function frees_slot(rec) return rec.w and rec.s == 'running' end
