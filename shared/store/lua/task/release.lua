-- A backend gives an attempt back: it stops, or failed at the task.
--
-- KEYS[1]  the hash tag of the task's partition
-- ARGV[1]  packed map, see task/apply (actor, attempt, allowed_from, status, owner, backoff and what every step carries),
--          and: failed (true: it counts as a failure), after (ms until it waits in its queue, at least; 0: it does so at
--          once, or after the backoff),
--          due_in (ms until it is checked that it waits there), most (failures that end the task), exhausted (the status
--          text of that end)
-- Returns  what task/apply returns. A repeated release of the same attempt is 'same'. If the task waits in its queue at
--          once, slot is 'forgotten': its queue forgets the slot that it held.
-- @include task/record
-- @function apply_step task/apply

-- From so many in a row that count for nothing, each counts as a failure: a backend that always gives a task back would have
-- it for ever.
local UNCOUNTED = 20

task_tag = KEYS[1]
local arg = cmsgpack.unpack(ARGV[1])
local rec, raw = load_record(arg.id)
local is_replay = rec and rec.k == arg.op
if rec and not is_replay then
  local is_mine = not arg.owner or arg.owner == rec.o
  if is_mine and rec.R and rec.R[1] == arg.attempt then return { 'same', raw } end
  if is_mine and not rec.w then return { 'state', raw } end
  local in_a_row = arg.failed and 0 or (rec.R and rec.R[2] or 0) + 1
  arg.released = { arg.attempt, in_a_row }
  arg.failed = arg.failed or in_a_row >= UNCOUNTED or nil
  if not arg.failed then
    arg.backoff = nil
    if arg.after > 0 then arg.apart, arg.due_in = true, arg.after end
  elseif rec.f + 1 < arg.most then
    arg.apart, arg.due_in, arg.backoff.least = true, nil, arg.after
  else
    arg.to, arg.new_attempt = 'failed', nil
    arg.status = string.format(arg.exhausted, rec.f + 1, arg.most)
  end
end
local applied = apply_step(KEYS[1], arg, '')
-- One that waits apart has 0 in z.
if applied[1] == 'applied' and applied.rec.s == 'created' and applied.rec.z ~= 0 then applied[6] = 'forgotten' end
return applied
