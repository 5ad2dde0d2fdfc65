-- What a destination is to be told first of a task, see J in record.lua: an end, or else progress; nil if nothing.
local function first_message(call) return call.Q and call.Q[1] or call.p end
