-- The completions of these tasks were published: from now on they only wait for the end of their retention.
--
-- KEYS[1]  the hash tag of their partition
-- ARGV[1]  retention in ms
-- ARGV     then their ids
-- @include task/record
-- @include task/set_due
task_tag = KEYS[1]
for i = 2, #ARGV do
  local rec = load_record(ARGV[i])
  if rec and rec.y then
    rec.y = nil
    save_record(ARGV[i], rec)
    -- A cancelled batch has a deadline for its children.
    if not (rec.G and rec.G.J) then set_due(ARGV[i], rec.m + ARGV[1]) end
  end
end
