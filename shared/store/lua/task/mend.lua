-- Mends what does not fit together among keys of one partition, by what the records say: deadlines that are lost or, as the
-- clock was set back, too far ahead; index entries that are lost; and keys that cannot be the app's, which somebody else
-- wrote: they are removed. Running it twice does no more than once.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV[1]  packed map: now (0: the server's clock), retention (ms), foreign (true: only remove keys that cannot be the app's,
--          which comes first: what a record says is written to other keys)
-- ARGV     then the keys, by their names without the tag. Those that are not known are left alone
-- Returns  how many keys were removed
-- @include common/now_ms
-- @include requests/keys
-- @include task/deferred_end_ms
-- @include task/index
-- @include task/is_delayed
-- @include task/readable_record
-- @include task/set_due
-- @include task/terminal
local TYPES = {
  t = 'string', b = 'string', r = 'string', k = 'string', n = 'string', u = 'string', q = 'string', qs = 'string',
  qr = 'list', rated = 'set',
  asked = 'string', keyed = 'string', answers = 'string',
  z = 'zset', c = 'zset', ends = 'zset', due = 'zset', fenced = 'zset', qo = 'zset', qw = 'zset', ql = 'zset', qh = 'zset',
  qb = 'zset',
  endpoints = 'zset', s1 = 'list', s10 = 'list', s60 = 'list', sum = 'string', series = 'zset', series_bytes = 'hash',
  paths = 'set', ended_paths = 'set', queues = 'set', starts = 'zset', delayed_paths = 'set',
  outages = 'hash', qi = 'hash', requests = 'hash', reconciler = 'hash', settings = 'hash', audited = 'hash',
  audit = 'stream', calls = 'zset', uncalled = 'zset', owed = 'zset', called = 'hash',
  schedule = 'string', schedule_body = 'string', schedules = 'zset', schedules_due = 'zset',
}
-- A destination is never to be tried later.
local LONGEST_PAUSE_MS = 3600000
-- Nor is a run of a schedule that could not be started.
local LONGEST_RETRY_MS = 300000
local REQUESTS = { last = 'zset', ends = 'zset', shares = 'hash' }
task_tag = KEYS[1]
local arg = cmsgpack.unpack(ARGV[1])
local now, removed = now_ms(arg.now), 0

local function remove(key)
  redis.call('DEL', key)
  removed = removed + 1
end

-- When a task that has no deadline is due, or one whose deadline is of another time.
local function deadline(rec, at)
  if rec.G then return now end
  if is_terminal(rec.s) then return rec.y and now or math.min(rec.m, now) + arg.retention end
  if rec.E and (rec.s ~= 'dispatched' or rec.A) then return now + DEFERRED_END_MS end
  if not rec.w then return now + arg.retention end
  if is_delayed(rec) then return math.min(rec.q or rec.c, rec.c + (rec.V or math.huge)) end
  if rec.s ~= 'created' then
    local lease_end = now + rec.l * 2 ^ (rec.L or 0)
    return rec.I and rec.D and math.min(lease_end, math.max(now, rec.c + rec.D + rec.I[1])) or lease_end
  end
  -- One that waits apart has been told for how long.
  return rec.z == 0 and at and now + math.max(0, at - rec.m) or now
end

local function mend_task(id)
  local rec = readable_record(id)
  if not rec then
    removed = removed + 1
    return
  end
  local at = tonumber(redis.call('ZSCORE', task_key('due'), id) or nil)
  if not at or at > now and rec.m > now then set_due(id, math.min(at or math.huge, deadline(rec, at))) end
  if rec.Z then return end
  if type(rec.J) == 'table' and (not is_terminal(rec.s) or rec.J.Q or rec.J.e ~= rec.a) then
    -- Whatever of its callback is lost is found there.
    redis.call('ZADD', task_key('owed'), time_text(now), id)
    local tried = tonumber(redis.call('ZSCORE', task_key('calls:' .. rec.J.d), id) or nil)
    -- Or it ended by the clock as it was before.
    if tried and (tried > now + LONGEST_PAUSE_MS or rec.m > now) then
      redis.call('ZADD', task_key('calls:' .. rec.J.d), time_text(now), id)
    end
  end
  if is_delayed(rec) then return add_to_index(id, rec) end
  local index = task_key('z:' .. rec.p .. ':' .. rec.s)
  local again = rec.s == 'created' and task_key('z:' .. rec.p .. ':again')
  if not redis.call('ZSCORE', index, id) and not (again and redis.call('ZSCORE', again, id)) then add_to_index(id, rec) end
  if not rec.G and redis.call('SISMEMBER', task_key('ended_paths'), rec.p) == 0 then
    redis.call('SADD', task_key('paths'), rec.p)
  end
end

local mend = { t = mend_task }

function mend.u(id, key)
  local is_read, upload = pcall(cmsgpack.unpack, redis.call('GET', key) or '')
  if not is_read or type(upload) ~= 'table' or type(upload.e) ~= 'number' or type(upload.b) ~= 'string' then
    return remove(key)
  end
  if not redis.call('ZSCORE', task_key('due'), 'u/' .. id) then set_due('u/' .. id, math.max(now, upload.e)) end
end

function mend.n(_, key)
  local is_read, steps = pcall(cmsgpack.unpack, redis.call('GET', key) or '')
  if not is_read or type(steps) ~= 'table' or type(steps[1]) ~= 'number' then remove(key) end
end

-- A report that lies ahead was made by the clock as it was.
mend['ends'] = function(_, key)
  for _, report in ipairs(redis.call('ZRANGEBYSCORE', key, '(' .. time_text(now), '+inf')) do
    redis.call('ZADD', key, time_text(now), report)
  end
end

-- Of a queue's state, whose fields queue/state.lua has; others are of a later version.
local STATE = { p = 'string', f = 'table', P = 'table', Q = 'table', M = 'string', X = 'string', R = 'table', L = 'table' }
for field in ('lhwumBDNTGabrzygeodOAjstcvxiqSW'):gmatch('.') do STATE[field] = 'number' end

local function are_numbers(values)
  for _, value in pairs(values) do
    if type(value) ~= 'number' then return false end
  end
  return true
end

-- The queue is counted anew then. What is not even a map is found by its next step.
function mend.q(_, key)
  local is_read, state = pcall(cmsgpack.unpack, redis.call('GET', key) or '')
  if not is_read or type(state) ~= 'table' then return remove(key) end
  for field, expected in pairs(STATE) do
    if state[field] ~= nil and type(state[field]) ~= expected then return remove(key) end
  end
  local P = state.P
  for _, field in ipairs({ 'f', 'R', 'L' }) do
    if not are_numbers(state[field] or {}) then return remove(key) end
  end
  if P and (type(P[1]) ~= 'string' or type(P[2]) ~= 'string' or type(P[3]) ~= 'number') then remove(key) end
end

local function are_settings(raw)
  local is_read, settings = pcall(cmsgpack.unpack, raw or '')
  if not is_read or type(settings) ~= 'table' then return false end
  for name, expected in pairs({
    paused = 'boolean', draining = 'boolean', limit = 'number', burst = 'number', at = 'number', by = 'string',
  }) do
    if settings[name] ~= nil and type(settings[name]) ~= expected then return false end
  end
  local rate = settings.rate
  return rate == nil or type(rate) == 'table' and type(rate[1]) == 'number' and type(rate[2]) == 'number'
end

-- They are restored from their record, or that from them.
function mend.qs(_, key)
  if not are_settings(redis.call('GET', key)) then remove(key) end
end

function mend.settings(_, key)
  local rows = redis.call('HGETALL', key)
  for row = 1, #rows, 2 do
    if not are_settings(rows[row + 1]) then removed = removed + redis.call('HDEL', key, rows[row]) end
  end
end

-- What is lost of when it is due, is found when it is looked at.
function mend.schedule(name, key)
  local is_read, schedule = pcall(cmsgpack.unpack, redis.call('GET', key) or '')
  if not is_read or type(schedule) ~= 'table' or type(schedule.d) ~= 'table' or type(schedule.r) ~= 'table' then
    redis.call('ZREM', task_key('schedules'), name)
    redis.call('ZREM', task_key('schedules_due'), name)
    redis.call('DEL', task_key('schedule_body:' .. name))
    return remove(key)
  end
  redis.call('ZADD', task_key('schedules'), 0, name)
  local at, run = tonumber(redis.call('ZSCORE', task_key('schedules_due'), name) or nil), schedule.p
  -- A run is to be started by the clock as it was.
  local is_ahead = at and type(run) == 'table' and ((tonumber(run.f) or 0) > now or at > now + LONGEST_RETRY_MS)
  if (schedule.n or run) and (not at or is_ahead) then
    redis.call('ZADD', task_key('schedules_due'), time_text(now), name)
  end
end

local function forget_counter(field)
  redis.call('HDEL', requests_key(task_tag), field)
  redis.call('ZREM', requests_key(task_tag, 'last'), field)
  redis.call('DEL', requests_key(task_tag, 'ends', field))
  remove(requests_key(task_tag, 'shares', field))
end

local function is_counter(raw)
  local is_read, kept = pcall(cmsgpack.unpack, raw)
  if not is_read or type(kept) ~= 'table' or type(kept[1]) ~= 'number' then return false end
  if type(kept[2]) ~= 'table' or type(kept[3]) ~= 'table' or type(kept[4] or 0) ~= 'number' then return false end
  for _, share in pairs(kept[3]) do
    if type(share) ~= 'table' or #share ~= 2 or not are_numbers(share) then return false end
  end
  return true
end

-- All counters, or the shares of one.
function mend.requests(part, key)
  local field = part:match('^shares:(.*)$')
  if part ~= '' and not field then return end
  local rows = redis.call('HGETALL', key)
  for row = 1, #rows, 2 do
    if field and not rows[row + 1]:match('^%-?%d+$') then return forget_counter(field) end
    if not field and not is_counter(rows[row + 1]) then forget_counter(rows[row]) end
  end
end

for i = 2, #ARGV do
  local kind, rest = ARGV[i]:match('^([^:]*):?(.*)$')
  local key, expected = task_key(ARGV[i]), TYPES[kind]
  if kind == 'requests' and rest ~= '' then expected = REQUESTS[rest:match('^[^:]*')] end
  local found = redis.call('TYPE', key).ok
  if expected and found ~= 'none' then
    if found ~= expected then
      remove(key)
    elseif not arg.foreign and mend[kind] then
      mend[kind](rest, key)
    end
  end
end
return removed
