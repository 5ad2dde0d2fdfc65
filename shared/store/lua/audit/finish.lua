-- Notes what came of an operator's action.
--
-- KEYS[1]  the hash tag of the partition that has the record
-- ARGV     the entry's id, and how many tasks or queues the action has changed
-- Returns  1; 0 if the entry is not kept any more
-- @include audit/keys
local counts = audit_key(KEYS[1], 'audited')
if #redis.call('XRANGE', audit_key(KEYS[1], 'audit'), ARGV[1], ARGV[1]) == 0 then return 0 end
redis.call('HDEL', counts, ARGV[1]) -- needs no room, see begin.lua
redis.call('HSET', counts, ARGV[1], ARGV[2])
return 1
