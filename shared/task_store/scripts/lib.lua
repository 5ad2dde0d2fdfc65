-- Shared by all scripts, which begin with it. Here, and nowhere else, keys are named.
--
-- KEYS[1] is always the partition's hash tag, such as {04s}: every key of a task begins with it, so one script
-- can reach all of a task, on one node of a cluster too.
--
--   <tag>t:<id>             string   the record, a packed map
--   <tag>b:<id>             string   the request body, up to the inline limit
--   <tag>r:<id>             string   the result, up to the inline limit
--   <tag>z:<path>:<state>   zset     ids by the time of entering the state (created: of entering the queue)
--   <tag>l:<path>           zset     ids by the time of creation, for lists
--   <tag>due                zset     one deadline per task, see sweep.lua
--   <tag>paths              set      the endpoint paths that have tasks here
--   <tag>q…                          the queues that lie here, see queue_scripts
--
-- The record's fields. Times are milliseconds; absent means empty, none or false.
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
--   h  history: the first and the last 31 of {ms since created, state, attempt, who, status}

local TAG = KEYS[1]
local DUE, PATHS = TAG .. 'due', TAG .. 'paths'
local TERMINAL = { completed = true, failed = true, cancelled = true }
local LEASED = { dispatched = true, running = true }
local HISTORY = 32

local function record_key(id) return TAG .. 't:' .. id end
local function body_key(id) return TAG .. 'b:' .. id end
local function result_key(id) return TAG .. 'r:' .. id end
local function index_key(path, state) return TAG .. 'z:' .. path .. ':' .. state end
local function list_key(path) return TAG .. 'l:' .. path end

-- The server's clock is the one clock all processes share; tests give their own.
local function now_ms(given)
  if given > 0 then return given end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A script's argument, which a joint script has unpacked.
local function given(arg) return type(arg) == 'table' and arg or cmsgpack.unpack(arg) end

local function load(id)
  local raw = redis.call('GET', record_key(id))
  if raw then return cmsgpack.unpack(raw), raw end
end

local function save(id, rec)
  local raw = cmsgpack.pack(rec)
  redis.call('SET', record_key(id), raw)
  return raw
end

local function set_due(id, at) redis.call('ZADD', DUE, at, id) end

local function index(id, rec, now)
  redis.call('ZADD', index_key(rec.p, rec.s), rec.s == 'created' and rec.q or now, id)
end

local function unindex(id, rec) redis.call('ZREM', index_key(rec.p, rec.s), id) end

local function remember(rec, now, who, brief)
  local event = { now - rec.c, rec.s, rec.a, who, brief or '' }
  if #rec.h >= HISTORY then table.remove(rec.h, 2) end
  rec.h[#rec.h + 1] = event
end

-- Forgets a path that has no task left, so that the cost of counting stays that of the paths in use.
local function prune(path)
  if redis.call('EXISTS', list_key(path)) == 0 then redis.call('SREM', PATHS, path) end
end

-- Moves a record to a state of its present or another path, in every index at once.
local function enter(id, rec, state, path, now)
  local left = rec.p
  unindex(id, rec)
  rec.s, rec.p = state, path
  index(id, rec, now)
  if path ~= left then
    redis.call('ZREM', list_key(left), id)
    redis.call('ZADD', list_key(path), rec.c, id)
    redis.call('SADD', PATHS, path)
    prune(left)
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
  enter(id, rec, 'failed', rec.p, now)
  rec.x = status
  remember(rec, now, 'reconciler', status)
  rec.m, rec.v, rec.k = now, rec.v + 1, arg.op
  finished(id, rec, now, arg.retention, arg.announce)
  return save(id, rec)
end

-- Removes all there is of a task; blobs were deleted before.
local function purge(id, rec)
  redis.call('DEL', record_key(id), body_key(id), result_key(id))
  redis.call('ZREM', DUE, id)
  redis.call('ZREM', list_key(rec.p), id)
  unindex(id, rec)
  prune(rec.p)
end
