-- Adds what a reporter says to the requests in flight at one endpoint.
--
-- KEYS[1]  the hash tag of the field's partition
-- ARGV[1]  packed map: now, op, field, delta, and of a reporter that names itself: instance, keep (ms)
-- Returns  the sum of all reports; a replay adds nothing
--
-- Kept is {sum of the unnamed, {op, …}, {instance → {count, until}}}. Many reporters share a counter, and a failover
-- makes all of them repeat at once, so the last operations' ids are kept. A named reporter's share lasts as long as it
-- keeps reporting.
-- @include common/now_ms
local RECENT = 32
local arg = cmsgpack.unpack(ARGV[1])
local key, now = KEYS[1] .. 'requests', now_ms(arg.now)
local raw = redis.call('HGET', key, arg.field)
local kept = raw and cmsgpack.unpack(raw) or { 0, {}, {} }
local ops, shares = kept[2], kept[3]

local known = false
for _, op in ipairs(ops) do known = known or op == arg.op end
if not known then
  table.insert(ops, 1, arg.op)
  ops[RECENT + 1] = nil
  if arg.instance then
    local share = shares[arg.instance]
    local count = share and share[2] > now and share[1] or 0
    shares[arg.instance] = { math.max(0, count + arg.delta), now + arg.keep }
  else
    kept[1] = kept[1] + arg.delta
  end
end
local sum = math.max(0, kept[1])
for instance, share in pairs(shares) do
  if share[2] > now then sum = sum + share[1] else shares[instance] = nil end
end
if not known then redis.call('HSET', key, arg.field, cmsgpack.pack(kept)) end
return sum
