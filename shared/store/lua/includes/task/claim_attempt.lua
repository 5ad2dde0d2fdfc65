-- Claims a task's attempt for a dispatcher; see task/claim.lua. The only place that says what a claim is.
-- @include task/apply_step
local function claim_attempt(tag, arg)
  return apply_step(tag, {
    id = arg.id, attempt = arg.attempt, now = arg.now, op = arg.op, actor = 'dispatcher',
    allowed_from = arg.allowed_from or { 'created' }, needs_body = true,
    to = 'dispatched', due_in = arg.window, fetch_body = true,
  })
end
