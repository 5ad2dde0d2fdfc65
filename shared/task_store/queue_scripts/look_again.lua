-- Sets when turns that hold a slot are to be looked at again.
--
-- ARGV[1]  and: turns {{turn, ms from now}, …}
for _, row in ipairs(arg.turns) do redis.call('ZADD', HELD, 'XX', now + row[2], row[1]) end
