-- Stores a new task; see task/create.lua.
-- @include common/now_ms
-- @include task/append_event
-- @include task/index
-- @include task/record
-- @include task/set_due
local function create_task(tag, arg, body)
  task_tag = tag
  local now, rec = now_ms(arg.now), arg.rec
  rec.c, rec.m, rec.v, rec.k, rec.h = now, now, 1, arg.op, ''
  local delay = arg.start_in or arg.start_at and math.max(0, arg.start_at - now)
  if delay then rec.T, rec.z, rec.q, arg.due_in = delay, 0, now + delay, delay end
  -- A child's registration at its batch counts so long. Before it is created later, it has to be registered again.
  if arg['until'] and now > arg['until'] and redis.call('EXISTS', task_key('t:' .. arg.id)) == 0 then return { 'late' } end
  append_event(rec, now, arg.actor, arg.brief, nil, nil, arg.by)
  local due = now + arg.due_in
  if arg.expires then
    local from, ms = unpack(arg.expires)
    rec.V = from == 'epoch' and ms - now or from == 'start' and (delay or 0) + ms or ms
    due = math.min(due, now + rec.V)
  end
  local key, stored = task_key('t:' .. arg.id), pack_record(rec)
  local keys = { key, stored }
  if rec.b and not rec.b[3] then keys = { key, stored, task_key('b:' .. arg.id), body } end
  if arg.steps then
    keys[#keys + 1] = task_key('n:' .. arg.id)
    keys[#keys + 1] = cmsgpack.pack(arg.steps)
  end
  if redis.call('MSETNX', unpack(keys)) == 0 then
    local known, raw = load_record(arg.id)
    if known and known.k == arg.op then return { 'created', raw, replay = true } end
    if known then
      if known.s == 'created' and known.v == 1 and not known.W then
        known.W = true
        save_record(arg.id, known)
      end
      return { 'exists', raw }
    end
    -- The body or the pipeline was left behind by a record that was lost.
    redis.call('MSET', unpack(keys))
  end
  if not delay then redis.call('SADD', task_key('paths'), rec.p) end
  add_to_index(arg.id, rec)
  if set_due(arg.id, due) == 0 then
    -- A record of this id was lost, and what the indexes have of it is still there.
    local paths = redis.call('SUNION', task_key('paths'), task_key('ended_paths'), task_key('delayed_paths'))
    redis.call('ZREM', task_key('starts'), arg.id)
    local states = { 'created', 'again', 'since', 'delayed', 'dispatched', 'running', 'completed', 'failed', 'cancelled' }
    for _, path in ipairs(paths) do
      for _, index in ipairs(states) do redis.call('ZREM', task_key('z:' .. path .. ':' .. index), arg.id) end
    end
    add_to_index(arg.id, rec)
  end
  if rec.J then redis.call('ZADD', task_key('owed'), time_text(now + 3600000), arg.id) end
  return { 'created', now }
end
