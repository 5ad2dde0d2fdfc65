-- Removes a task that was created a moment ago and that its queue does not take, before anybody was told of it.
--
-- ARGV[1]  its id
-- Returns  1 if there is none now; 0 if somebody was told of it, or it has gone on: it stays
local rec = load(ARGV[1])
if not rec then return 1 end
if rec.s ~= 'created' or rec.v > 1 or rec.W then return 0 end
purge(ARGV[1], rec)
return 1
