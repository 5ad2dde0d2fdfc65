-- Shared by all scripts: each is put after those of these declarations that it uses, and after `begin`. Here, and nowhere
-- else, keys are named.
--
-- KEYS[1] is always the partition's hash tag, such as {04s}: every key of a task begins with it, so one script
-- can reach all of a task, on one node of a cluster too.
--
--   <tag>t:<id>             string   the record, a packed map
--   <tag>b:<id>             string   the request body, up to the inline limit
--   <tag>r:<id>             string   the result, up to the inline limit
--   <tag>z:<path>:<state>   zset     ids by the time of creation
--   <tag>z:<path>:again     zset     so those that wait in a queue anew, by a hop or a replay, and are not in 'created'
--   <tag>z:<path>:since     zset     those by the time of entering the queue
--   <tag>due                zset     one deadline per task, see sweep.lua
--   <tag>paths              set      the endpoint paths that have tasks here
--   <tag>q…                          the queues that lie here, see queue_scripts
--
-- The record's fields. Times are milliseconds; absent means empty, none or false. In Redis m and q count from c.
--
--   s  state            p  endpoint path     u  query string      x  status text
--   a  attempt (fence)  f  failed attempts   n  publishes of this attempt
--   w  dispatch wanted  v  version           k  last operation id, by which a replay is recognised
--   j  priority, if it is not 5
--   z  how often its wait was looked at; 0: it waits on its own, not in its endpoint's queue
--   d  if that operation was a transition, where it began: the attempt, or {attempt, path} if it left another path
--   c  created at       m  updated at        q  in the queue since   l  lease in ms
--   b  body {content type, bytes, blob}      r  result {content type, bytes, blob}
--   e  true if the result is an earlier step's
--   W  true if it was told of by a create that found it, and so may not be withdrawn
--   y  true until the end is announced, to who wants to hear of it
--   g  true if any blob was ever stored      o  owner    t  traceparent    i  fingerprint
--   h  history: the first and the last 31 of {ms since created, state, attempt, who, status}, each packed, one after the
--      other; state and who are numbers, see below, and true stands for a status that is the state's name
--   D  when it was last dispatched, in ms since created

local TAG
local TERMINAL = { completed = true, failed = true, cancelled = true }
local LEASED = { dispatched = true, running = true }
local HISTORY = 32
local STATES = { 'created', 'dispatched', 'running', 'completed', 'failed', 'cancelled' }
local NUMBER = {
  created = 1, dispatched = 2, running = 3, completed = 4, failed = 5, cancelled = 6,
  client = 1, dispatcher = 2, reconciler = 3,
}

local function begin(keys) TAG = keys[1] end

local function due_key() return TAG .. 'due' end
local function paths_key() return TAG .. 'paths' end
local function record_key(id) return TAG .. 't:' .. id end
local function body_key(id) return TAG .. 'b:' .. id end
local function result_key(id) return TAG .. 'r:' .. id end
local function index_key(path, state) return TAG .. 'z:' .. path .. ':' .. state end

local function packed(rec)
  local m, q = rec.m, rec.q
  rec.m, rec.q = m ~= rec.c and m - rec.c or nil, q ~= rec.c and q - rec.c or nil
  local raw = cmsgpack.pack(rec)
  rec.m, rec.q = m, q
  return raw
end

local function unpacked(raw)
  local rec = cmsgpack.unpack(raw)
  rec.m, rec.q = rec.c + (rec.m or 0), rec.c + (rec.q or 0)
  return rec
end

local function load(id)
  local raw = redis.call('GET', record_key(id))
  if raw then return unpacked(raw), raw end
end

local function save(id, rec)
  local raw = packed(rec)
  redis.call('SET', record_key(id), raw)
  return raw
end

local function set_due(id, at) redis.call('ZADD', due_key(), text(at), id) end

local function index(id, rec)
  if rec.s == 'created' and rec.q ~= rec.c then
    redis.call('ZADD', index_key(rec.p, 'again'), text(rec.c), id)
    redis.call('ZADD', index_key(rec.p, 'since'), text(rec.q), id)
  else
    redis.call('ZADD', index_key(rec.p, rec.s), text(rec.c), id)
  end
end

local function unindex(id, rec)
  if redis.call('ZREM', index_key(rec.p, rec.s), id) == 0 and rec.s == 'created' then
    redis.call('ZREM', index_key(rec.p, 'again'), id)
    redis.call('ZREM', index_key(rec.p, 'since'), id)
  end
end

local function remember(rec, now, who, brief)
  local event = { now - rec.c, NUMBER[rec.s], rec.a, NUMBER[who], brief == rec.s or brief or '' }
  -- It has no more events than the record has versions.
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

-- Forgets a path that a task has left and that has none any more, so that the cost of counting stays that of the paths
-- in use.
local function prune(path, state)
  if redis.call('EXISTS', index_key(path, state)) == 1 or redis.call('EXISTS', index_key(path, 'again')) == 1 then
    return
  end
  for _, other in ipairs(STATES) do
    if redis.call('EXISTS', index_key(path, other)) == 1 then return end
  end
  redis.call('SREM', paths_key(), path)
end

-- Moves a record to a state of its present or another path, in every index at once.
local function enter(id, rec, state, path)
  local left, left_state = rec.p, rec.s
  unindex(id, rec)
  rec.s, rec.p = state, path
  index(id, rec)
  if path ~= left then
    redis.call('SADD', paths_key(), path)
    prune(left, left_state)
  end
end

-- A finished task's deadline: the end of its retention, or until its end is announced, when to announce it again.
local function finished(id, rec, now, retention_ms, announce_ms)
  rec.y = announce_ms > 0 or nil
  rec.n = announce_ms > 0 and 1 or rec.n
  set_due(id, now + (announce_ms > 0 and announce_ms or retention_ms))
end

-- A new attempt at an endpoint: what the former one stored is void, and whoever still works on it is fenced off.
-- The result of an earlier step of a pipeline stays: the next attempt may need it.
local function retry(id, rec)
  rec.a, rec.n, rec.z = rec.a + 1, 0, nil
  if rec.r and not rec.e then
    rec.r = nil
    redis.call('DEL', result_key(id))
  end
end

-- The next step of a pipeline: a new attempt with a clean slate, at the end of a queue.
local function hop(rec, now)
  rec.a, rec.n, rec.f, rec.q, rec.e, rec.z = rec.a + 1, 0, 0, now, rec.r ~= nil or nil, nil
end

-- Exponential backoff, half of it jitter.
local function backoff(base_ms, cap_ms, nth)
  local delay = math.min(cap_ms, base_ms * 2 ^ math.min(nth - 1, 30))
  return math.floor(delay * (0.5 + 0.5 * math.random()))
end

-- Ends a task that cannot go on. arg is a reconciler's script's.
local function give_up(id, rec, status, now, arg)
  enter(id, rec, 'failed', rec.p)
  rec.x = status
  remember(rec, now, 'reconciler', status)
  rec.m, rec.v, rec.k = now, rec.v + 1, arg.op
  finished(id, rec, now, arg.retention, arg.announce)
  return save(id, rec)
end

-- Removes all there is of a task; blobs were deleted before. Looking for what is not there costs as much as deleting it,
-- and among a million tasks more.
local function purge(id, rec)
  local keys = { record_key(id) }
  if rec.b and not rec.b[3] then table.insert(keys, body_key(id)) end
  if rec.r and not rec.r[3] then table.insert(keys, result_key(id)) end
  redis.call('DEL', unpack(keys))
  redis.call('ZREM', due_key(), id)
  unindex(id, rec)
  prune(rec.p, rec.s)
end
