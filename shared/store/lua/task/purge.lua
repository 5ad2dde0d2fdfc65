-- Removes finished tasks whose blobs were deleted.
--
-- KEYS[1]  the hash tag of their partition
-- ARGV     their ids
-- Returns  how many were removed
-- @include task/purge_task
-- @include task/record
-- @include task/terminal
task_tag = KEYS[1]
local count = 0
for _, id in ipairs(ARGV) do
  local rec = load_record(id)
  if rec and is_terminal(rec.s) then
    purge_task(id, rec)
    count = count + 1
  end
end
return count
