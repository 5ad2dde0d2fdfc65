-- Appends a transition to the history: {ms since created, state, attempt, actor, status, reason, path, operator}, each
-- packed, one after the other. State, actor and reason are numbers; true stands for a status that is the state's name. A
-- reason is stored only if the rest does not tell it, and a path only where the task comes to another one: with the first
-- such event, the first of all gets the path that the task `left`. The first and the last 31 are kept, and four more for
-- each step of a pipeline. Of what an operator did, it has the name of `by`, or true if that is empty, beside the actor
-- 'client': a former version knows no such actor. An end that the app gives up has why as its reason.
-- @include generated/history_number
local HISTORY = 32

local function append_event(rec, now, actor, brief, reason, left, by)
  local event = { now - rec.c, history_number(rec.s), rec.a, history_number(actor), brief == rec.s or brief or '' }
  if reason or left or by then event[6] = reason and history_number(reason) or 0 end
  if left then
    event[7] = rec.p
    local events = { cmsgpack.unpack(rec.h) }
    if not events[1][7] then
      events[1][6], events[1][7] = events[1][6] or 0, left
      rec.h = cmsgpack.pack(unpack(events))
    end
  end
  if by then event[7], event[8] = event[7] or rec.p, by ~= '' and by or true end
  -- There are no more events than versions.
  if rec.v >= HISTORY then
    local events, most = { cmsgpack.unpack(rec.h) }, rec.N and HISTORY + 4 * rec.N[2] or HISTORY
    if #events >= most then
      local gone = table.remove(events, 2)
      if gone[7] and not events[2][7] then events[2][6], events[2][7] = events[2][6] or 0, gone[7] end
      rec.h = cmsgpack.pack(unpack(events))
    end
  end
  rec.h = rec.h .. cmsgpack.pack(event)
  if rec.s == 'dispatched' then rec.D = now - rec.c end
end
