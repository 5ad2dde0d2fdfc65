-- Appends a transition to the history: {ms since created, state, attempt, actor, status}, each packed, one after the
-- other. State and actor are numbers; true stands for a status that is the state's name. The first and the last 31 are
-- kept.
-- @include generated/history_number
local HISTORY = 32

local function append_event(rec, now, actor, brief)
  local event = { now - rec.c, history_number(rec.s), rec.a, history_number(actor), brief == rec.s or brief or '' }
  -- There are no more events than versions.
  if rec.v >= HISTORY then
    local events = { cmsgpack.unpack(rec.h) }
    if #events >= HISTORY then
      table.remove(events, 2)
      rec.h = cmsgpack.pack(unpack(events))
    end
  end
  rec.h = rec.h .. cmsgpack.pack(event)
  if rec.s == 'dispatched' then rec.D = now - rec.c end
end
