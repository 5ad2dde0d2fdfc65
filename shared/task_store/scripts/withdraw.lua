-- Removes a task that was created a moment ago and that its queue does not take, before anybody was told of it.
--
-- ARGV[1]  its id
local rec = load(ARGV[1])
if rec and rec.s == 'created' and rec.v == 1 then purge(ARGV[1], rec) end
