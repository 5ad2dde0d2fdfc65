-- Reads a queue's state, and writes it once the script is through: several steps in one script share it.
--
-- The state's fields. Times are milliseconds. They have letters because words would cost each step of a queue several
-- per cent of its time: the map is unpacked and packed in each (docs/decisions/0003-a-record-is-one-packed-value.md). So
-- would an absent field that is set to nil: Lua makes room for it, twice as much as there is where 8 or 16 are used.
--
--   l  the capacity estimate: how many tasks the backend is known to hold at a time
--   h, w  how many entries hold a slot, how many wait
--   p  the probe: the entry that was granted a slot beyond the estimate; u: until when its answer is awaited, m: how many
--      held a slot with it, n: true if one of these ended before there was an answer
--   B  a search: how many probes may be unanswered at a time, D: how many were accepted since that was doubled; without B
--      there is one probe at a time, and N: how many were accepted in a row
--   Q  the unanswered probes of a search but the last one, a set
--   T  how many tasks the backend's instances have told that they hold, G: when the first of them is forgotten
--   a  until when a refusal of another entry is taken for the probe's: that entry may have got the probe's slot
--   b  before when there is no probe, r: refused probes in a row, z: the estimate after the last refusal
--   y  when an entry was refused that was not beyond the estimate, g: after what time there is a probe then
--   e  how long after an entry's end its slot is granted again, f: the times at which slots that wait for this are free
--   o  before when nothing is dispatched at all, d: failures since the last entry that was accepted, P: the last entry
--      granted since such a failure, {owner, entry, rank}, and its {entry, rank} since it waits again
--   O  since when the backend is away: as outages_key has it     A  when the last entry was accepted after a failure
--   C  true once an entry was accepted       j  probes that were granted while an earlier one was unanswered, in a row
--   s  how long slots were held in all, until t, c: by how many entries that ended; both forget what is long ago
--   v  the virtual time       x  when a loss was last noticed       k  false until the queue is known to be whole
--   q  the rank of the last new entry, without its priority
--   i  the configured limit; 0 until a state that was lost learns it       K  true if an operator has changed a setting
--   R  the configured rate: {how many grants, within how many ms, 1 if they may come at once, else 0}
--   L  what is kept of the grants under a rate, see rate.lua
--   W  how many slots an owner's entries may hold, see owner_bound.lua
--   M  what was counted in the minute of t, see count.lua; absent: nothing, and nothing has changed that a row would tell
--   X  the entry whose end was counted last, where the step that tells it may be taken twice
--   S  since when the oldest one waits: since it was the first, or as queue/note_oldest.lua has it; absent: not known
-- @include queue/keys
-- @late fold_tallies queue/fold_tallies
-- @late make_owner_bound queue/owner_bound

-- The queues that this script has read, by the key of their state.
local read_queues = {}
-- Of the queue that was loaded last, if an owner's entries may hold only so many slots: what is to be done then.
local owner_bound

-- What was learned of an endpoint that is not used any more is forgotten.
local KEPT_MS = 30 * 86400000
-- What was counted last there is kept for as long as the rows of hours.
local COUNTED_KEPT_MS = 90 * 86400000

-- So many are counted together.
local MOST_TALLIES = 250

local function queue_settings() return read_queues[queue_key].settings end

local function set_owner(command, ...)
  local known = read_queues[queue_key]
  known.virtual_times, known.only_owner = nil, nil
  return redis.call(command, owners_key, ...)
end

-- What is no set of entries was written by somebody else: it is lost.
local function count_entries(key)
  local count = redis.pcall('ZCARD', key)
  if type(count) == 'number' then return count end
  redis.call('DEL', key)
  return 0
end

-- Counts the waiting entries, and forgets the owners that have none.
local function count_waiting()
  local count = 0
  for _, owner in ipairs(redis.call('ZRANGE', owners_key, 0, -1)) do
    local entries = count_entries(waiting_key(owner))
    if entries == 0 then set_owner('ZREM', owner) end
    count = count + entries
  end
  return count
end

-- Counts what is there, for a state that does not agree with it: keys were lost. What the backend holds is then unknown
-- except for what is still there; the queue probes for more one by one, and no newcomer goes before all that wait.
local function recount(queue)
  for _, owner in ipairs(redis.call('ZRANGE', owners_key, 0, -1)) do
    if redis.call('EXISTS', waiting_key(owner)) == 0 then set_owner('ZREM', owner) end
  end
  queue.h, queue.w = redis.call('ZCARD', held_key), count_waiting()
  queue.l = math.min(queue.l, queue.h)
  if queue.p and not redis.call('ZSCORE', held_key, queue.p) then
    -- The probe does not hold a slot. Its answer is awaited all the same.
    queue.b = math.max(queue.b or 0, queue.u)
    queue.p, queue.u, queue.n = nil, nil, nil
  end
  queue.B, queue.D, queue.N, queue.Q = 1, nil, nil, nil
  local first = redis.call('ZRANGE', owners_key, 0, 0, 'WITHSCORES')
  if first[2] then queue.v = math.max(queue.v, tonumber(first[2]) - 1) end
  -- A path without a slot held is not in this set: a step that only reads a queue that nobody knows leaves no trace.
  redis.call(queue.h > 0 and 'SADD' or 'SREM', held_paths_key(queue_tag), queue_arg.path)
  queue.k, queue.x, queue.S = nil, queue_now, nil
end

local function load_queue()
  local known = read_queues[queue_key]
  if not known then
    local raw, settings = unpack(redis.call('MGET', queue_key, settings_key))
    local is_read, queue = pcall(cmsgpack.unpack, raw or '')
    -- What cannot be this state was written by somebody else: it is lost.
    is_read = is_read and type(queue) == 'table' and type(queue.l) == 'number' and type(queue.v) == 'number'
    if not is_read or type(queue.w) ~= 'number' or type(queue.t) ~= 'number' then
      raw, queue = nil, { l = 0, v = 0, i = 0 }
    end
    if settings then
      is_read, settings = pcall(cmsgpack.unpack, settings)
      if not is_read or type(settings) ~= 'table' then settings = nil end
    end
    local restored
    if not settings and (queue.K or not raw) then
      -- They were lost, if there were any. This step goes by their record; one that writes restores them.
      restored = redis.pcall('HGET', queue_tag .. SETTINGS_RECORD, queue_arg.path)
      is_read, settings = pcall(cmsgpack.unpack, restored or '')
      if not is_read or type(settings) ~= 'table' then restored, settings = nil, nil end
    end
    if settings then queue.K = true elseif queue.K then queue.K = nil end
    -- With room for all of it: a table that grows costs time.
    known = {
      queue = queue, settings = settings or {}, tag = queue_tag, path = queue_arg.path, held = 0, waiting = 0, slots = 0,
      changed = false, tallies = '', since = false, written = queue.t, only_owner = nil, virtual_times = nil,
    }
    if restored then known.restored, known.settings_key = restored, settings_key end
    read_queues[queue_key] = known
    local held, owners = count_entries(held_key), count_entries(owners_key)
    -- A state that was lost knows of no outage, and would never end this one. The next probe tells.
    if not raw then redis.call('HDEL', outages_key(queue_tag), queue_arg.path) end
    if not raw or queue.h ~= held or (queue.w > 0) ~= (owners > 0) then recount(queue) end
    known.held, known.waiting, known.slots = queue.h, queue.w, queue.l
    local back = queue.t and queue.t - queue_now or 0
    if back > 0 then
      -- The server's clock was set back: what lies ahead lies as far ahead as before.
      for _, time in ipairs({ 'a', 'b', 'o', 'u', 'y', 'A', 'G', 'S' }) do
        if queue[time] then queue[time] = queue[time] - back end
      end
      for at, time in ipairs(queue.f or {}) do queue.f[at] = time - back end
      local kept = queue.L
      if kept then kept.v, kept.o, kept.a = kept.v and kept.v - back, (kept.o or 0) + back, nil end
      queue.t = queue_now
      for _, entry in ipairs(redis.call('ZRANGE', held_key, 0, -1)) do redis.call('ZINCRBY', held_key, -back, entry) end
      known.changed = true
    end
  end
  local queue = known.queue
  -- The time that slots were held in all, per entry that ended, tells how long tasks take of late: also while most of
  -- those that began have yet to end, and the short ones have ended.
  queue.s = (queue.s or 0) + queue.h * (queue_now - (queue.t or queue_now))
  queue.t = queue_now
  if queue_arg.cap ~= nil then
    queue.i = queue_arg.cap or nil
    if queue_arg.rate or queue.R then queue.R = queue_arg.rate end
    if queue.W ~= queue_arg.bound then
      local is_new = not queue.W
      queue.W = queue_arg.bound
      -- Without a bound, nobody notes any more who holds a slot. Where a queue was lost, slots ended of which this was noted.
      if not queue.W then redis.call('DEL', holders_key()) end
      if is_new then make_owner_bound(queue, set_owner).forget_free_slots() end
    end
  end
  owner_bound = queue.W and make_owner_bound(queue, set_owner)
  return queue
end

local function save_queue() read_queues[queue_key].changed = true end

local function write_queues()
  for key, known in pairs(read_queues) do
    local queue = known.queue
    if known.changed then
      if queue.h == 0 and known.held > 0 then
        redis.call('SREM', held_paths_key(known.tag), known.path)
      elseif queue.h > 0 and known.held == 0 then
        redis.call('SADD', held_paths_key(known.tag), known.path)
      end
      local tallies = queue.M
      if tallies and (math.floor(known.written / 60000) ~= math.floor(queue.t / 60000) or #tallies > MOST_TALLIES) then
        fold_tallies(known)
        queue.M, tallies = nil, nil
      end
      if known.tallies ~= '' or queue.w ~= known.waiting or queue.h ~= known.held or queue.l ~= known.slots then
        queue.M = tallies and tallies .. known.tallies or known.tallies
      end
      if queue.w == 0 then
        if queue.S then queue.S = nil end
      elseif known.since and (known.waiting == 0 or queue.S and known.since < queue.S) then
        queue.S = known.since
      end
      redis.call('SET', key, cmsgpack.pack(queue), 'PX', queue.M and COUNTED_KEPT_MS or KEPT_MS)
      if known.restored then redis.call('SET', known.settings_key, known.restored) end
    end
  end
end
