-- How many slots an owner's entries may hold: W of the queue's state, as last given. While others wait that hold less, an
-- owner gets no more than that; if W is negative, it never does. Without a bound there is nothing of this in Redis, and
-- nothing of it is declared.
--
-- What is counted may be wrong for a while, after a loss of keys or a change of the bound: queue/maintain.lua finds the
-- entries whose owner is not known. Meanwhile they count for nobody.
-- @include queue/keys

-- So many owners are read at a time.
local OWNERS_READ = 64

-- The functions are of the queue that is loaded, whose bound is there.
local function make_owner_bound(queue, set_owner)
  local bound, most, counts = {}, math.abs(queue.W), {}

  -- What is no set of holders was written by somebody else: it is lost.
  local function call_holders(command, ...)
    local reply = redis.pcall(command, holders_key(), ...)
    if type(reply) == 'table' and reply.err then
      redis.call('DEL', holders_key())
      reply = redis.call(command, holders_key(), ...)
    end
    return reply
  end

  -- How many slots an owner's entries hold. No owner's name has a blank, so that all its holders lie between two names.
  local function held_by(owner)
    local count = counts[owner]
    if not count then
      count = call_holders('ZLEXCOUNT', '[' .. owner .. ' ', '(' .. owner .. '!')
      counts[owner] = count
    end
    return count
  end

  function bound.is_reached(owner) return held_by(owner) >= most end

  function bound.note(owner, entry)
    if call_holders('ZADD', 0, owner .. ' ' .. entry) == 1 and counts[owner] then counts[owner] = counts[owner] + 1 end
  end

  function bound.forget(owner, entry)
    counts = {}
    if call_holders('ZREM', owner .. ' ' .. entry) == 1 then return end
    -- Whoever frees a slot does not always know whose it was.
    for _, each in ipairs(call_holders('ZRANGE', 0, -1)) do
      if string.match(each, ' (.*)$') == entry then redis.call('ZREM', holders_key(), each) end
    end
  end

  -- Forgets the holders that hold no slot. Returns the entries of the others.
  function bound.forget_free_slots()
    local owned = {}
    for _, each in ipairs(call_holders('ZRANGE', 0, -1)) do
      local entry = string.match(each, ' (.*)$')
      if not entry or owned[entry] or not redis.call('ZSCORE', held_key, entry) then
        redis.call('ZREM', holders_key(), each)
      else
        owned[entry] = true
      end
    end
    counts = {}
    return owned
  end

  -- Returns up to `limit` entries that hold a slot and whose owner is not known.
  function bound.entries_without_owner(limit)
    local owned, found = bound.forget_free_slots(), {}
    for _, entry in ipairs(redis.call('ZRANGE', held_key, 0, -1)) do
      if #found == limit then break end
      if not owned[entry] then found[#found + 1] = entry end
    end
    return found
  end

  -- The owner whose turn it is, its virtual time, and another one if any waits: the first that holds less than its bound, or
  -- else the first. Nil if each holds as much as it ever may. It looks at no more owners than hold that much, and one. What
  -- its bound keeps an owner from it does not catch up on: else it would have all slots for as long.
  function bound.next_owner()
    local from, first, chosen = 0, nil, nil
    repeat
      local rows = redis.call('ZRANGE', owners_key, from, from + OWNERS_READ - 1, 'WITHSCORES')
      first = first or rows
      for at = 1, #rows, 2 do
        if held_by(rows[at]) < most then
          chosen = { rows[at], rows[at + 1], from > 0 and first[1] or first[3] }
          break
        end
      end
      from = from + OWNERS_READ
    until chosen or #rows < 2 * OWNERS_READ
    if not chosen then
      if queue.W < 0 and first[1] then return end
      chosen = { first[1], first[2], first[3] }
    end
    if chosen[1] and tonumber(chosen[2]) < queue.v then
      set_owner('ZADD', queue.v, chosen[1])
      chosen[2] = queue.v
    end
    return chosen
  end

  -- How many of an owner's `waiting` entries, at its virtual time `theirs`, go before one that has its turn at `mine`. Its
  -- first one comes up to `now`; of two owners at the same time, one `is_first`.
  local function earlier(waiting, theirs, now, mine, is_first)
    if waiting == 0 or theirs > mine or theirs == mine and not is_first then return 0 end
    local turns = mine - math.max(now, theirs)
    return math.min(waiting, math.max(1, turns % 1 == 0 and is_first and turns + 1 or math.ceil(turns)))
  end

  -- How many entries go before the one that is `rank`th of its owner's, counted from 0, if none that holds a slot ends:
  -- first those of owners within their bounds, each at its virtual time, then all others.
  function bound.ahead(owner, rank, mine, times)
    local now, rows = queue.v, {}
    local within = math.max(0, most - held_by(owner))
    -- When the last of those has had its turn.
    local turned = within > 0 and math.max(now, mine) + within - 1 or now
    for other, theirs in pairs(times) do
      if other ~= owner then
        local waiting = redis.call('ZCARD', waiting_key(other))
        local first = math.min(waiting, math.max(0, most - held_by(other)))
        local then_ = first > 0 and math.max(now, theirs) + first or theirs
        if first > 0 then turned = math.max(turned, then_ - 1) end
        rows[#rows + 1] = { other < owner, first, theirs, waiting - first, then_ }
      end
    end
    local ahead, is_within, from = rank, rank < within, now
    if not is_within then
      if within > 0 then mine = math.max(now, mine) + within end
      rank, from = rank - within, turned
    end
    if rank > 0 then mine = math.max(from, mine) + rank end
    for _, row in ipairs(rows) do
      local is_first, first, theirs, others, then_ = unpack(row)
      if is_within then
        ahead = ahead + earlier(first, theirs, now, mine, is_first)
      else
        ahead = ahead + first + earlier(others, then_, turned, mine, is_first)
      end
    end
    return ahead
  end

  -- How long the entry that is `rank`th of its owner's, counted from 0, waits at least for others of its owner to end, in
  -- ms.
  function bound.own_wait_ms(owner, rank)
    local beyond = rank + 1 + held_by(owner) - most
    if queue.W > 0 or not queue.c or beyond <= 0 then return 0 end
    return math.floor(beyond * queue.s / queue.c / most)
  end

  return bound
end
