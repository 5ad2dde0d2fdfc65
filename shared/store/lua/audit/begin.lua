-- Puts an operator's action on record, before it is taken: so none is taken that is not.
--
-- KEYS[1]  the hash tag of the partition that has the record
-- ARGV[1]  packed map: now, op, entry {operator?, by, action, target?, operation?}, most (how many entries are kept)
-- Returns  the entry's id. A repetition is answered as the first time.
-- @include audit/keys
-- @include common/now_ms
-- A call whose reply was lost is repeated at once.
local REPEATED_AMONG = 32
local arg = cmsgpack.unpack(ARGV[1])
local entries, counts = audit_key(KEYS[1], 'audit'), audit_key(KEYS[1], 'audited')
local op = string.format('%.0f', arg.op)
for _, row in ipairs(redis.call('XREVRANGE', entries, '+', '-', 'COUNT', REPEATED_AMONG)) do
  if row[2][1] == 'k' and row[2][2] == op then return row[1] end
end
local over = redis.call('XLEN', entries) - arg.most + 1
if over > 0 then
  for _, row in ipairs(redis.call('XRANGE', entries, '-', '+', 'COUNT', over)) do redis.call('HDEL', counts, row[1]) end
end
-- A full Redis refuses a script's first write if that needs room. This one never does: with a purge, an operator makes room.
redis.call('XTRIM', entries, 'MAXLEN', arg.most - 1)
arg.entry.at = now_ms(arg.now)
return redis.call('XADD', entries, '*', 'k', op, 'e', cmsgpack.pack(arg.entry))
