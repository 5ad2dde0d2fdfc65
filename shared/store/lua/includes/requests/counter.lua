-- A counter as a script works on it: what has lapsed is gone, and it does not matter where the shares lie.
-- @include requests/keys
local FEW = 32 -- instances whose shares lie in the counter

local function move_share(counter, instance, count, ends)
  redis.call('HINCRBY', counter.shares_key, instance, count)
  redis.call('ZADD', counter.ends_key, 'GT', ends, instance)
  counter.many[1], counter.many[2] = counter.many[1] + count, math.max(counter.many[2], ends)
end

local function load_counter(tag, field, now)
  local raw = redis.call('HGET', requests_key(tag), field)
  local kept = raw and cmsgpack.unpack(raw) or { 0, {}, {} }
  local counter = {
    field = field, is_new = not raw, ops = kept[2], unnamed = unnamed(kept, now), last = kept[4] or now, few = {},
    instances = 0, many = kept[3][''], shares_key = requests_key(tag, 'shares', field),
    ends_key = requests_key(tag, 'ends', field),
  }
  if counter.many then
    for _, instance in ipairs(redis.call('ZRANGEBYSCORE', counter.ends_key, '-inf', now)) do
      local count = tonumber(redis.call('HGET', counter.shares_key, instance) or 0)
      counter.many[1] = math.max(0, counter.many[1] - count)
      redis.call('HDEL', counter.shares_key, instance)
      redis.call('ZREM', counter.ends_key, instance)
    end
    counter.instances = redis.call('ZCARD', counter.ends_key)
    if counter.instances == 0 then counter.many = nil end
  end
  for instance, share in pairs(kept[3]) do
    if instance ~= '' and share[2] > now then
      if counter.many then
        move_share(counter, instance, share[1], share[2])
        counter.instances = redis.call('ZCARD', counter.ends_key)
      else
        counter.few[instance], counter.instances = share, counter.instances + 1
      end
    end
  end
  return counter
end

-- What the instance says is in flight there, or nothing.
local function share_of(counter, instance)
  if counter.many then
    local count = redis.call('HGET', counter.shares_key, instance)
    return count and tonumber(count)
  end
  return counter.few[instance] and counter.few[instance][1]
end

-- The former share, if any, is what share_of says.
local function set_share(counter, instance, former, count, ends)
  if not former then counter.instances = counter.instances + 1 end
  if counter.many then
    redis.call('HSET', counter.shares_key, instance, count)
    redis.call('ZADD', counter.ends_key, ends, instance)
    counter.many[1], counter.many[2] = counter.many[1] + count - (former or 0), math.max(counter.many[2], ends)
  else
    counter.few[instance] = { count, ends }
  end
end

-- Keeps the instance's share until then at least, which is 0 if it has none.
local function reserve_share(counter, instance, ends)
  local count = share_of(counter, instance)
  if count and counter.many then
    redis.call('ZADD', counter.ends_key, 'GT', ends, instance)
    counter.many[2] = math.max(counter.many[2], ends)
  else
    local share = counter.few[instance]
    set_share(counter, instance, count, count or 0, math.max(share and share[2] or 0, ends))
  end
end

local function in_flight(counter)
  local sum = math.max(0, counter.unnamed) + (counter.many and counter.many[1] or 0)
  for _, share in pairs(counter.few) do sum = sum + share[1] end
  return sum
end

local function save_counter(tag, counter)
  if not counter.many and counter.instances > FEW then
    counter.many = { 0, 0 }
    for instance, share in pairs(counter.few) do move_share(counter, instance, share[1], share[2]) end
    counter.few = {}
  end
  local shares = counter.many and { [''] = counter.many } or counter.few
  local kept = { counter.unnamed, counter.ops, shares, counter.last }
  redis.call('HSET', requests_key(tag), counter.field, cmsgpack.pack(kept))
end
