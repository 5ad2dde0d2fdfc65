-- Shared by all scripts of a queue: each is put after those of these declarations that it uses, and after `begin`. Here,
-- and nowhere else, a queue's keys are named.
--
-- A queue is an index over the records: who waits at one endpoint path for a slot of its backend, and who holds one.
-- What stands in it is a turn, `<task id>.<attempt>`: a turn of an attempt that is no longer current is harmless, for
-- nobody can claim it. KEYS[1] is the hash tag of the partition that the path falls in; all keys begin with it.
--
--   <tag>q:<path>           string   the state, a packed map
--   <tag>qs:<path>          string   the operator's settings, a packed map: paused, draining, limit
--   <tag>qo:<path>          zset     owners that have a turn waiting, by their virtual time (fair queuing)
--   <tag>qw:<path> <owner>  zset     an owner's waiting turns, by rank
--   <tag>qh:<path>          zset     turns that hold a slot, by when the reconciler is to look at them again
--   <tag>queues             set      the paths at which any turn holds a slot
--
-- The state's fields. Times are milliseconds.
--
--   l  how many the backend is known to hold at a time      h, w  how many hold a slot, how many wait
--   p  the turn by which more is tried, u: until when its answer is awaited, m: how many held a slot with it, n: true if
--      one of these was over before there was an answer
--   a  until when a refusal of another turn is laid to that one: it may have got the other's slot
--   b  before when no more is tried, r: refusals of what was tried in a row, z: what l was after the last
--   y  when a turn was refused that was not beyond l, g: after what time one is tried then
--   e  how long after a turn's end its slot is handed on, f: when each that waits for this will be
--   o  before when nothing is dispatched at all, d: failures since the last that was taken
--   s  how long slots were held in all, until t, c: by how many turns that ended; both forget what is long ago
--   v  the virtual time       x  when a loss was last noticed       k  false until the queue is known to be whole
--   q  since when the last new turn waits, in moments
--   i  the configured limit; 0 until it is told to a state that was lost
--
-- ARGV[1] is a packed map. Each has: now (0: the server's clock), path, cap (the configured limit, false: none; absent:
-- as it was last told), claim (ms within which a granted turn is to be claimed).
-- Returns of all that hand on: {granted turns}, ms until it is worth to ask again (-1: something else will come first).

local TAG, STATE, SETTINGS, OWNERS, HELD
local arg, now, path_before
-- How long the answer to a dispatch beyond the known limit is awaited before the next one: refusals come at once.
local ANSWER_MS = 1000
-- By so much is a turn of one priority ahead of one of the next lower that came at the same time.
local AGE_MS = 600000
-- Turns that come in the same millisecond are told apart by the moment in it. Whole numbers: Redis is quicker with them.
local MOMENTS = 1024
-- Of about how many turns what they took is remembered.
local RECENT = 100
local FIRST_DELAY_MS = 50
-- A backend that ends a task may take a moment until it has room again. More than this is not waited for.
local SETTLE_MS = 2000
-- What was learned of an endpoint that nobody uses any more is forgotten.
local KEPT_MS = 30 * 86400000

local function begin(keys, argv)
  TAG, arg = keys[1], given(argv[1])
  now = now_ms(arg.now)
  local path = arg.path
  -- A path has one partition. Those who go together are mostly of one path.
  if path ~= path_before then
    STATE, SETTINGS = TAG .. 'q:' .. path, TAG .. 'qs:' .. path
    OWNERS, HELD = TAG .. 'qo:' .. path, TAG .. 'qh:' .. path
    path_before = path
  end
end

local function waiting_key(owner) return TAG .. 'qw:' .. arg.path .. ' ' .. owner end

local function queues_key(tag) return tag .. 'queues' end

-- The queues that this script has read, by the key of their state: several steps in one script share them.
local read = {}

local function settings() return read[STATE].settings end

-- The virtual times of up to 64 owners, until they change.
local function virtual_times()
  local known = read[STATE]
  if not known.times then
    known.times = {}
    local rows = redis.call('ZRANGE', OWNERS, 0, 63, 'WITHSCORES')
    for i = 1, #rows, 2 do known.times[rows[i]] = tonumber(rows[i + 1]) end
  end
  return known.times
end

local function set_owner(command, ...)
  read[STATE].times, read[STATE].alone = nil, nil
  return redis.call(command, OWNERS, ...)
end

-- Counts the turns that wait, and forgets the owners that have none.
local function count_waiting()
  local count = 0
  for _, owner in ipairs(redis.call('ZRANGE', OWNERS, 0, -1)) do
    local turns = redis.call('ZCARD', waiting_key(owner))
    if turns == 0 then set_owner('ZREM', owner) end
    count = count + turns
  end
  return count
end

-- Counts what is there, for a state that does not agree with it: keys were lost. What the backend holds is then unknown
-- but for what is still there, and more is tried one by one; and nobody who comes goes before all who wait.
local function recount(queue)
  for _, owner in ipairs(redis.call('ZRANGE', OWNERS, 0, -1)) do
    if redis.call('EXISTS', waiting_key(owner)) == 0 then set_owner('ZREM', owner) end
  end
  queue.h, queue.w = redis.call('ZCARD', HELD), count_waiting()
  queue.l = math.min(queue.l, queue.h)
  if queue.p and not redis.call('ZSCORE', HELD, queue.p) then
    -- It is not among those that hold a slot. Its answer is awaited all the same.
    queue.b = math.max(queue.b or 0, queue.u)
    queue.p, queue.u, queue.n = nil, nil, nil
  end
  local first = redis.call('ZRANGE', OWNERS, 0, 0, 'WITHSCORES')
  if first[2] then queue.v = math.max(queue.v, tonumber(first[2]) - 1) end
  redis.call('SADD', queues_key(TAG), arg.path)
  queue.k, queue.x = nil, now
end

local function load()
  local known = read[STATE]
  if not known then
    local raw, set = unpack(redis.call('MGET', STATE, SETTINGS))
    known = {
      queue = raw and cmsgpack.unpack(raw) or { l = 0, v = 0, i = 0 }, settings = set and cmsgpack.unpack(set) or {},
      tag = TAG, path = arg.path,
    }
    read[STATE] = known
    local queue = known.queue
    local held, owners = redis.call('ZCARD', HELD), redis.call('EXISTS', OWNERS)
    if not raw or queue.h ~= held or (queue.w > 0) ~= (owners == 1) then recount(queue) end
    known.held = queue.h
  end
  local queue = known.queue
  -- How long slots were held in all, per turn that ended, tells how long turns take of late: also while most of those
  -- that began have yet to end, and those that did are the short ones.
  queue.s = (queue.s or 0) + queue.h * (now - (queue.t or now))
  queue.t = now
  if arg.cap ~= nil then queue.i = arg.cap or nil end
  return queue
end

-- Has what was changed of the queue written, once the script is through.
local function save() read[STATE].changed = true end

local function write_queues()
  for key, known in pairs(read) do
    local queue = known.queue
    if known.changed then
      if queue.h == 0 and known.held > 0 then
        redis.call('SREM', queues_key(known.tag), known.path)
      elseif queue.h > 0 and known.held == 0 then
        redis.call('SADD', queues_key(known.tag), known.path)
      end
      redis.call('SET', key, cmsgpack.pack(queue), 'PX', KEPT_MS)
    end
  end
end

local function holds(turn) return redis.call('ZSCORE', HELD, turn) end

local function hold(queue, turn)
  redis.call('ZADD', HELD, text(now + arg.claim), turn)
  queue.h = queue.h + 1
end

local function stands(turn, owner) return holds(turn) or redis.call('ZSCORE', waiting_key(owner), turn) end

-- Lets a turn wait, unless it does or holds a slot already. One that comes back keeps its place, and its owner is not
-- charged for it. An owner that comes anew among the owners comes with all its turns: that index may have been lost.
local function wait(queue, turn, owner, queued_ms, priority, comes_back)
  if not arg.fresh and holds(turn) then return end
  local key = waiting_key(owner)
  local since = queued_ms * MOMENTS
  if since == 0 then
    -- Who comes later in the same millisecond goes later.
    since = math.max(now * MOMENTS, (queue.q or 0) + 1)
    queue.q = since
  end
  local rank = since - priority * AGE_MS * MOMENTS
  local added = redis.call('ZADD', key, 'NX', string.format('%d', rank), turn)
  local times = read[STATE].times
  local is_there = times and times[owner]
  if not is_there and redis.call('ZADD', OWNERS, 'NX', comes_back and queue.v or queue.v + 1, owner) == 1 then
    read[STATE].times, read[STATE].alone = nil, nil
    queue.w = queue.w + redis.call('ZCARD', key)
  else
    queue.w = queue.w + added
    if added == 1 and comes_back then set_owner('ZINCRBY', -1, owner) end
  end
end

-- Takes the next turn out of those that wait: the best of the owner that is furthest behind.
local function next_turn(queue)
  while true do
    local known = read[STATE]
    local first = known.alone or redis.call('ZRANGE', OWNERS, 0, 1, 'WITHSCORES')
    local owner = first[1]
    if not owner then return end
    local key = waiting_key(owner)
    local turn = redis.call('ZPOPMIN', key)[1]
    local is_alone = not first[3]
    known.alone = is_alone and first or nil
    if not turn or (is_alone and queue.w == 1) or (not is_alone and redis.call('EXISTS', key) == 0) then
      set_owner('ZREM', owner)
    elseif not is_alone then
      set_owner('ZINCRBY', 1, owner)
    end
    if turn then
      queue.w, queue.v = queue.w - 1, tonumber(first[2])
      return turn
    end
    recount(queue)
  end
end

-- A turn that held a slot holds it no more.
local function freed(queue, turn)
  queue.h = queue.h - 1
  if queue.p == turn then queue.p, queue.u, queue.n = nil, nil, nil end
end

-- Takes a turn out of those that wait, if it is there.
local function give_up(queue, turn, owner)
  local key = waiting_key(owner)
  if redis.call('ZREM', key, turn) == 1 then
    queue.w = queue.w - 1
    if redis.call('EXISTS', key) == 0 then set_owner('ZREM', owner) end
  end
end

-- Takes a turn out, wherever it is. Returns whether it held a slot.
local function remove(queue, turn, owner)
  local held = redis.call('ZREM', HELD, turn) == 1
  if held then freed(queue, turn) else give_up(queue, turn, owner) end
  return held
end

-- The backend has taken a turn that holds a slot. One by which more is tried, and that has no answer yet, proves nothing.
-- A backend that has ended it already may be quick, and others have ended too: what counts is how many there were with it.
-- If others let go of a slot meanwhile it is likely, and not sure, that the backend holds more: soon it will be known.
local function proven(queue, turn, has_ended)
  local proof, unsure = queue.p == turn, queue.n
  if proof then queue.p, queue.u, queue.n, queue.a = nil, nil, nil, nil end
  if proof and queue.y then
    -- A slot that was refused is there a moment later: it was handed on too early.
    if not unsure then queue.e, queue.g = math.min((queue.e or 0) + now - queue.y, SETTLE_MS), nil end
    queue.y = nil
  elseif queue.e then
    queue.e = queue.e > 10 and queue.e * 0.99 or nil
  end
  queue.o, queue.d = nil, nil
  local had = has_ended and proof and queue.m or queue.h - (queue.p and 1 or 0)
  local raised = had > queue.l
  if raised then
    queue.l = queue.l + 1
    if proof and unsure then queue.a = now + ANSWER_MS end
  end
  if proof and not unsure or queue.l > (queue.z or 0) + 1 then queue.r = nil end
  if proof and (raised or not unsure) then queue.b = nil end
end

-- Hands free slots on to who waits. Beyond the known limit one turn at a time: so a backend that takes more is filled
-- as fast as it answers, and one that does not refuses once. Meanwhile known slots are handed on all the same: where
-- tasks are short, some end before each answer, and nothing would be learned of what is never full.
local function hand_on(queue)
  local granted, set = {}, settings()
  local cap = set.limit or queue.i
  local tries_at = -1
  local settling = queue.f or {}
  while settling[1] and settling[1] <= now do table.remove(settling, 1) end
  queue.f = settling[1] and settling or nil
  while queue.w > 0 and not set.paused and not (cap and queue.h >= cap) do
    local at = queue.o or 0
    -- After a pause for failures too, until one is taken.
    local known = queue.h - (queue.p and 1 or 0)
    local beyond = known >= queue.l or queue.o ~= nil
    if beyond then
      at = math.max(at, queue.b or 0, queue.p and queue.u or 0)
    elseif known + #settling >= queue.l then
      at = math.max(at, settling[1])
    end
    if at > now then
      tries_at = at - now
      break
    end
    local turn = next_turn(queue)
    if not turn then
      recount(queue)
      break
    end
    hold(queue, turn)
    if beyond then
      queue.p, queue.m, queue.n = turn, queue.h, nil
      queue.u, queue.a = now + ANSWER_MS, now + ANSWER_MS
    end
    granted[#granted + 1] = turn
  end
  save()
  return granted, tries_at
end

-- What there is to tell of a turn that waits: {its place, 0 being the next; slots; mean service time in ms or -1}, or
-- false. Exact for up to 64 owners.
local function place(queue, turn, owner)
  local set = settings()
  local rank = redis.call('ZRANK', waiting_key(owner), turn)
  if not rank then return false end
  local ahead = rank
  local times = virtual_times()
  local mine = times[owner] or tonumber(redis.call('ZSCORE', OWNERS, owner) or 0)
  for other, theirs in pairs(times) do
    if other ~= owner then
      -- By the time mine has come, theirs have come up to the same virtual time.
      local turns = math.max(0, mine + rank - theirs + (other < owner and 1 or 0))
      ahead = ahead + math.min(redis.call('ZCARD', waiting_key(other)), turns)
    end
  end
  local cap = set.limit or queue.i
  local slots = math.max(queue.l, queue.h)
  if cap then slots = math.min(slots, cap) end
  local known = queue.c and slots > 0 and not set.paused and (queue.o or 0) <= now
  return { math.min(ahead, queue.w - 1), slots, known and math.floor(queue.s / queue.c) or -1 }
end
