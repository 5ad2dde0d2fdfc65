-- Turns are known to be in their backend's hands: they hold a slot. For a queue that is rebuilt.
--
-- ARGV[1]  and: turns {{turn, owner}, …}
local queue = load()
for _, row in ipairs(arg.turns) do
  if not holds(row[1]) then
    remove(queue, row[1], row[2])
    hold(queue, row[1])
  end
end
save()
