-- Sets the deadline of a batch that has not ended, or of whose end something is left to do.
-- @include batch/upkeep
-- @include task/record
-- @include task/set_due
-- @include task/terminal
local function set_batch_due(id, rec, now, arg)
  local batch, after, at = rec.G, upkeep(arg), nil
  if batch.J or batch.r > 0 or batch.d and not batch.e and not is_terminal(rec.s) then
    at = now + after.again
  elseif is_terminal(rec.s) then
    at = rec.y and now + after.completion or rec.m + after.retention
  else
    at = now + (batch.K < batch.n and after.grace or after.look)
    if not batch.S then at = math.min(at, rec.m + after.idle) end
  end
  set_due(id, at)
end
