-- Adds what a reporter says to the requests in flight at one endpoint. Costs the same however many others report.
--
-- KEYS[1]  the hash tag of the field's partition
-- ARGV[1]  packed map: now, op, field, delta, and of a reporter that names itself: instance, keep (ms)
-- Returns  the sum of all reports, to which a replay adds nothing; or what there is too much of: 'instances' of this
--          counter, or 'counters'
--
-- Kept of a counter is {sum of the unnamed, {op, …}, {'' → {sum of the named, until}}, time of the last unnamed
-- report}. Many reporters share a counter, and a failover makes all of them repeat at once, so the last operations'
-- ids are kept. A named reporter's share lasts as long as it keeps reporting; the shares have keys of their own. A
-- former version keeps them by their names beside the '', and reads the '' as one of them.
-- @include common/now_ms
-- @include requests/keys
local RECENT, MOST_INSTANCES, MOST_COUNTERS = 32, 1000, 256
local arg = cmsgpack.unpack(ARGV[1])
local now = now_ms(arg.now)
local key, last = requests_key(KEYS[1]), requests_key(KEYS[1], 'last')
local shares, ends = requests_key(KEYS[1], 'shares', arg.field), requests_key(KEYS[1], 'ends', arg.field)

-- Whether there is room for another counter, if need be that of one whose reporters have fallen silent.
local function has_room()
  if redis.call('HLEN', key) < MOST_COUNTERS then return true end
  if redis.call('ZCARD', last) < redis.call('HLEN', key) then -- of a former version
    for _, field in ipairs(redis.call('HKEYS', key)) do redis.call('ZADD', last, 'NX', now, field) end
  end
  local silent = redis.call('ZRANGEBYSCORE', last, '-inf', now - UNNAMED_KEPT_MS, 'LIMIT', 0, 1)[1]
  if not silent then return false end
  redis.call('HDEL', key, silent)
  redis.call('ZREM', last, silent)
  redis.call('DEL', requests_key(KEYS[1], 'shares', silent), requests_key(KEYS[1], 'ends', silent))
  return true
end

local raw = redis.call('HGET', key, arg.field)
if not raw and not has_room() then return 'counters' end
local kept = raw and cmsgpack.unpack(raw) or { 0, {}, {} }
local ops, named = kept[2], kept[3][''] or { 0, 0 }
for instance, share in pairs(kept[3]) do
  if instance ~= '' and share[2] > now then
    redis.call('HINCRBY', shares, instance, share[1])
    redis.call('ZADD', ends, 'GT', share[2], instance)
    named = { named[1] + share[1], math.max(named[2], share[2]) }
  end
end
for _, instance in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now)) do
  named[1] = math.max(0, named[1] - tonumber(redis.call('HGET', shares, instance) or 0))
  redis.call('HDEL', shares, instance)
  redis.call('ZREM', ends, instance)
end
kept[1] = unnamed(kept, now)

local known, refused = false, false
for _, op in ipairs(ops) do known = known or op == arg.op end
if not known and arg.instance and redis.call('ZCARD', ends) >= MOST_INSTANCES then
  refused = not redis.call('ZSCORE', ends, arg.instance)
end
if not known and not refused then
  table.insert(ops, 1, arg.op)
  ops[RECENT + 1] = nil
  if arg.instance then
    local count = tonumber(redis.call('HGET', shares, arg.instance) or 0)
    local share = math.max(0, count + arg.delta)
    redis.call('HSET', shares, arg.instance, share)
    redis.call('ZADD', ends, now + arg.keep, arg.instance)
    named = { named[1] + share - count, math.max(named[2], now + arg.keep) }
  else
    kept[1], kept[4] = kept[1] + arg.delta, now
  end
  redis.call('ZADD', last, now, arg.field)
end
kept[3], kept[4] = { [''] = named }, kept[4] or now
redis.call('HSET', key, arg.field, cmsgpack.pack(kept))
return refused and 'instances' or math.max(0, kept[1]) + named[1]
