-- The end of these tasks was announced: from now on they wait for the end of their retention only.
--
-- ARGV[1]  retention in ms
-- ARGV     then their ids
for i = 2, #ARGV do
  local rec = load(ARGV[i])
  if rec and rec.y then
    rec.y = nil
    save(ARGV[i], rec)
    set_due(ARGV[i], rec.m + ARGV[1])
  end
end
