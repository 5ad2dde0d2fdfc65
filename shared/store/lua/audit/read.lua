-- Reads some of what operators have done, the newest first.
--
-- KEYS[1]  the hash tag of the partition that has the record
-- ARGV     how many entries, and the id of the entry behind which they begin, or '' for the newest
-- Returns  {{id, what the entry has: {name, value, …}, how many tasks or queues it has changed, or false}, …}
-- @include audit/keys
local behind = ARGV[2] == '' and '+' or '(' .. ARGV[2]
local found = {}
for i, row in ipairs(redis.call('XREVRANGE', audit_key(KEYS[1], 'audit'), behind, '-', 'COUNT', ARGV[1])) do
  found[i] = { row[1], row[2], redis.call('HGET', audit_key(KEYS[1], 'audited'), row[1]) }
end
return found
