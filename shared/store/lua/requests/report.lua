-- Adds what reporters say to the requests in flight at endpoints: all of it, or nothing. Each report costs the same
-- however many others report.
--
-- KEYS[1]  the hash tag of the fields' partition
-- ARGV[1]  packed map: now, op, reports: {{field, delta}, …}, and of a reporter that names itself {field, delta,
--          instance, keep (ms)}; stage: 'reserve' makes room for what another call counts, by 'count', within
--          RESERVED_MS; without a stage, the one call does both
-- Returns  the sum of all reports at the field of each, to which a replay adds nothing; or what there is too much of:
--          'instances' of a counter, or 'counters'
--
-- Many reporters share a counter, and a failover makes all of them repeat at once, so a counter keeps the last
-- operations' ids. A named reporter's share lasts as long as it keeps reporting.
-- @include common/now_ms
-- @include requests/counter
local RECENT, MOST_INSTANCES, MOST_COUNTERS, RESERVED_MS = 32, 1000, 256, 10000
local tag, arg = KEYS[1], cmsgpack.unpack(ARGV[1])
local now = now_ms(arg.now)
local all, last = requests_key(tag), requests_key(tag, 'last')
local counters, fresh = {}, 0

-- Whether there is room for another counter, if need be that of one whose reporters have fallen silent.
local function has_room()
  local size = redis.call('HLEN', all)
  if size + fresh < MOST_COUNTERS then return true end
  if redis.call('ZCARD', last) < size then -- of a former version
    for _, field in ipairs(redis.call('HKEYS', all)) do redis.call('ZADD', last, 'NX', now, field) end
  end
  local silent = redis.call('ZRANGEBYSCORE', last, '-inf', now - UNNAMED_KEPT_MS, 'LIMIT', 0, 1)[1]
  if not silent then return false end
  redis.call('HDEL', all, silent)
  redis.call('ZREM', last, silent)
  redis.call('DEL', requests_key(tag, 'shares', silent), requests_key(tag, 'ends', silent))
  return true
end

-- A counter that has only been reserved makes room for others when that is over.
local function note_use(counter)
  local is_reserved = arg.stage == 'reserve' and #counter.ops == 0
  redis.call('ZADD', last, is_reserved and now - UNNAMED_KEPT_MS + RESERVED_MS or now, counter.field)
end

local function counter_of(field)
  local counter = counters[field]
  if not counter then
    counter = load_counter(tag, field, now)
    counter.awaited = {}
    for _, op in ipairs(counter.ops) do counter.is_known = counter.is_known or op == arg.op end
    -- At once, so that it makes no room for another of these reports.
    if not counter.is_new then note_use(counter) end
    counters[field] = counter
  end
  return counter
end

-- What there is too much of for the report, or nothing.
local function excess(counter, instance)
  if counter.is_new and not counter.is_admitted then
    if not has_room() then return 'counters' end
    counter.is_admitted, fresh = true, fresh + 1
  end
  if instance and not counter.awaited[instance] and not counter.is_known and not share_of(counter, instance) then
    counter.more = (counter.more or 0) + 1
    counter.awaited[instance] = true
    return counter.instances + counter.more > MOST_INSTANCES and 'instances'
  end
end

for _, report in ipairs(arg.reports) do
  local counter = counter_of(report[1])
  local too_many = arg.stage ~= 'count' and excess(counter, report[3])
  if too_many then return too_many end
end
for _, report in ipairs(arg.reports) do
  local field, delta, instance, keep = unpack(report)
  local counter = counters[field]
  if arg.stage == 'reserve' then
    if instance then reserve_share(counter, instance, now + RESERVED_MS) end
  elseif counter.is_known then
    -- It was counted before.
  elseif instance then
    local former = share_of(counter, instance)
    set_share(counter, instance, former, math.max(0, (former or 0) + delta), now + keep)
  else
    counter.unnamed, counter.last = counter.unnamed + delta, now
  end
end
for _, counter in pairs(counters) do
  if arg.stage ~= 'reserve' and not counter.is_known then
    table.insert(counter.ops, 1, arg.op)
    counter.ops[RECENT + 1] = nil
  end
  if counter.is_new then note_use(counter) end
  save_counter(tag, counter)
end
local sums = {}
for number, report in ipairs(arg.reports) do sums[number] = in_flight(counters[report[1]]) end
return sums
