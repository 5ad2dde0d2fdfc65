-- At most so often: how many slots a queue may grant within a window of time. By the times of its grants no window of that
-- length ever has one more, whichever process asks: the first of the last n grants has to be a window ago. A list has their
-- times. A change of the rate counts for the windows that begin after it.
--
-- In a burst, that is all. Evenly, each grant has a virtual time too, an interval after that of the grant before, and comes
-- no sooner (GCRA). It may come a tolerance later, if whoever was to ask for it was late, and loses nothing by that.
--
-- The state's field L is what is kept of grants under a rate, all of it numbers; each is absent while there is nothing:
--   v, r, n  the virtual time of the last grant: ms, and r n-ths of one
--   c, t     how many times the list has, and the last of them      o  by how much the list's clock is ahead of the
--            server's: it is never set back                         l  by the list's clock, when grants were forgotten
--   a, k     when somebody is to ask for the next grant, and how many were told of it
-- @include common/time_text
-- @include queue/state

local LONGEST_TOLERANCE_MS = 250
-- The list outlives its last time by this much more than a window.
local SPARE_MS = 3600000
-- As a process may die, or have much to do, it is not the only one that asks. More of them would ask for nothing; they look
-- a few grants later whether the others do.
local MOST_ASKERS = 2
local INTERVALS_LATER, SHORTEST_LATER_MS, LONGEST_LATER_MS = 5, 100, 1000
-- Who is told of a later time than this relies on the reconciler: shared/dispatch/dispatcher.py.
local LONGEST_TIMER_MS = 5000
-- The grants that fall into so long are asked for together.
local TOGETHER_MS = 5

-- The rate in force: the operator's goes before the configured one. One of them is there.
local function rate_of(queue, settings)
  local configured, kept = queue.R or {}, nil
  local most, window = unpack(settings.rate or configured)
  local is_burst = (settings.burst or configured[3]) == 1
  local tolerance, catches_up = math.min(LONGEST_TOLERANCE_MS, math.floor(window / 4)), false
  local rate = { most = most, window = window, is_burst = is_burst }

  -- What of the last grants was lost may have been granted at the last time that is known.
  local function forget(since)
    kept.l, kept.v, kept.r, kept.n = since + kept.o, (kept.v or since) + tolerance, 0, most
  end

  -- Whether slots were granted here before. The paths have a key together, which a loss of the queue's leaves.
  local function has_granted()
    local known = redis.pcall('SISMEMBER', rated_paths_key(), queue_arg.path)
    return type(known) == 'table' or known == 1
  end

  -- Finds what is kept, and compares the list with it. A queue that is not known to be whole may have forgotten grants,
  -- unless its first tasks have just come.
  local function begin()
    if kept then return end
    local is_unknown = not queue.L and not queue.k
    kept = queue.L or { o = 0 }
    queue.L = kept
    local length = redis.pcall('LLEN', rate_key())
    if type(length) ~= 'number' then
      redis.call('DEL', rate_key())
      length = 0
    end
    local comes = queue_arg.new or queue_arg.arrives
    local is_first = comes and queue.h == 0 and queue.w <= #queue_arg.entries
    if length == kept.c then return end
    if kept.c then
      forget(kept.t - kept.o)
    elseif length > 0 then
      kept.t = tonumber(redis.call('LINDEX', rate_key(), -1)) or queue_now
      kept.o = math.max(kept.o, kept.t - queue_now)
      kept.v, kept.r, kept.n = kept.t - kept.o, 0, most
    elseif is_unknown and (not is_first or has_granted()) then
      forget(queue_now)
    end
    kept.c, kept.t = length, kept.t or queue_now + kept.o
  end

  -- When the list allows the grant that `ahead` others go before, each as soon as it may.
  local function list_allows_at(ahead)
    local windows = math.floor(ahead / most)
    local first, since = kept.c + ahead - (windows + 1) * most, is_burst and kept.l or -math.huge
    if first >= 0 then since = math.max(since, tonumber(redis.call('LINDEX', rate_key(), first)) or kept.t) end
    local at = since + window - kept.o
    return windows > 0 and math.max(at, queue_now) + windows * window or at
  end

  -- The virtual time of the next grant: ms, and n-ths of one.
  local function next_virtual_time()
    if not kept.v then return 0, 0 end
    local ms, parts = kept.v + math.floor(window / most), window % most
    if kept.n == most then parts = parts + kept.r elseif kept.r > 0 then ms = ms + 1 end
    if parts >= most then return ms + 1, parts - most end
    return ms, parts
  end

  -- Whether somebody is or was to ask for the grant that is possible at `at`.
  local function is_asked_for(at) return kept.a and kept.a >= at and kept.a <= at + TOGETHER_MS end

  -- When the next grant is allowed.
  function rate.allows_at()
    begin()
    local at = list_allows_at(0)
    if not is_burst then
      local ms, parts = next_virtual_time()
      at = math.max(at, parts > 0 and ms + 1 or ms)
    end
    catches_up = catches_up or is_asked_for(at)
    return at
  end

  -- Notes a grant of now, after allows_at.
  function rate.note()
    local ms, parts = next_virtual_time()
    local earliest = catches_up and not is_burst and queue_now - tolerance or queue_now
    if ms < earliest then ms, parts = earliest, 0 end
    kept.v, kept.r, kept.n = ms, parts, most
    if kept.c == 0 then redis.pcall('SADD', rated_paths_key(), queue_arg.path) end
    kept.c, kept.t = math.min(kept.c + 1, most), queue_now + kept.o
    redis.call('RPUSH', rate_key(), time_text(kept.t))
    redis.call('LTRIM', rate_key(), -most, -1)
    redis.call('PEXPIRE', rate_key(), window + SPARE_MS)
  end

  -- How many ms until who learns of it now is to ask for a grant that is possible at `at`.
  function rate.ask_again_in_ms(at)
    local ms, interval = at - queue_now, window / most
    if ms > LONGEST_TIMER_MS then return ms end
    if not is_asked_for(at) or kept.a <= queue_now then
      kept.a, kept.k = queue_now + (interval < TOGETHER_MS and math.max(ms, TOGETHER_MS) or ms), 0
    end
    kept.k = kept.k + 1
    if kept.k <= MOST_ASKERS then return kept.a - queue_now end
    local later = math.max(SHORTEST_LATER_MS, math.min(INTERVALS_LATER * interval, LONGEST_LATER_MS))
    return ms + math.floor(later)
  end

  -- How many ms until the rate allows the entry that `ahead` others go before.
  function rate.wait_ms(ahead)
    local at = math.max(rate.allows_at(), queue_now)
    if not is_burst then at = at + ahead * window / most end
    return math.floor(math.max(at, list_allows_at(ahead)) - queue_now)
  end

  return rate
end
