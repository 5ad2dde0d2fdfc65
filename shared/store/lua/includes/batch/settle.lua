-- Goes on with a batch whose children have changed: its first end, its Then task, its own end. Returns whether
-- the batch has another state.
-- @include batch/children
-- @include batch/set_batch_due
-- @include task/append_event
-- @include task/begin_retention
-- @include task/move_record
-- @include task/set_status

-- The Then task's id, of the batch's and of how often it has had one: whoever creates it, it is the same.
local function then_id(id, nth)
  local hash = redis.sha1hex('then ' .. nth .. ' ' .. id)
  return table.concat({ hash:sub(1, 8), hash:sub(9, 12), hash:sub(13, 16), hash:sub(17, 20), hash:sub(21, 32) }, '-')
end

local function transition(id, rec, state, status, now, actor, reason, by)
  if rec.s ~= state then move_record(id, rec, state, rec.p) end
  set_status(rec, status)
  append_event(rec, now, actor, status, reason, nil, by)
end

local function end_text(batch, texts)
  local parts = {}
  if batch.f > 0 then parts[1] = string.format(texts.failed, batch.f, batch.t) end
  if batch.x > 0 then parts[#parts + 1] = string.format(texts.cancelled, batch.x, batch.t) end
  if batch.h and batch.h ~= 'completed' then parts[#parts + 1] = string.format(texts['then'], batch.h) end
  return 'failed - ' .. table.concat(parts, ', ')
end

local function settle(id, rec, now, arg)
  local batch, state = rec.G, rec.s
  if is_terminal(state) then return false end
  if state == 'created' and ended_children(batch) > 0 then
    transition(id, rec, 'running', 'running', now, 'reconciler', 'children')
  end
  if batch.S and not batch.J and ended_children(batch) == batch.t then
    if not batch.T or batch.h then
      local is_completed = batch.c == batch.t and (not batch.T or batch.h == 'completed')
      local after = upkeep(arg)
      local text = is_completed and 'completed' or end_text(batch, after.texts)
      transition(id, rec, is_completed and 'completed' or 'failed', text, now, 'reconciler', 'children')
      begin_retention(id, rec, now, after.retention, after.completion)
    elseif not batch.d then
      batch.g = (batch.g or 0) + 1
      batch.d = then_id(id, batch.g)
      if rec.s == 'created' then transition(id, rec, 'running', 'running', now, 'reconciler', 'children') end
      set_batch_due(id, rec, now, arg)
    end
  end
  return rec.s ~= state
end
