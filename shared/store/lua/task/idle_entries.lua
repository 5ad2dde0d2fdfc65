-- Finds the entries of a queue that wait for nothing: their tasks are gone, have ended, are elsewhere or at another attempt,
-- or have yet to start. An entry is never there before its task is.
--
-- KEYS[1]  the hash tag of the tasks' partition
-- ARGV[1]  packed map: path, entries {{id, attempt}, …}
-- Returns  {{id, attempt}, …}
-- @include task/forget_lost
-- @include task/is_delayed
-- @include task/readable_record
-- @include task/terminal
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local found = {}
for _, entry in ipairs(arg.entries) do
  local rec = readable_record(entry[1])
  if not rec then forget_lost({ entry[1] }, { arg.path }) end
  if not rec or rec.p ~= arg.path or rec.a ~= entry[2] or is_terminal(rec.s) or is_delayed(rec) then
    found[#found + 1] = entry
  end
end
return found
