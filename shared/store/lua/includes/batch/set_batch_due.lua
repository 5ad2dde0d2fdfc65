-- Sets the deadline of a batch that has not ended, or of whose end something is left to do. `arg` has in ms: again (when
-- what was begun is gone on with), grace (when it is checked whether a registered child exists), look (when it is checked
-- how the children are of which nothing was heard), idle (when a batch in which nothing happens is sealed), and retention
-- and completion as in apply.lua.
-- @include task/record
-- @include task/set_due
-- @include task/terminal
local function set_batch_due(id, rec, now, arg)
  local batch, at = rec.G, nil
  if batch.J or batch.r > 0 or batch.d and not batch.e and not is_terminal(rec.s) then
    at = now + arg.again
  elseif is_terminal(rec.s) then
    at = rec.y and now + arg.completion or rec.m + arg.retention
  else
    at = now + (batch.K < batch.n and arg.grace or arg.look)
    if not batch.S then at = math.min(at, rec.m + arg.idle) end
  end
  set_due(id, at)
end
