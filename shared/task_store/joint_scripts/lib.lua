-- Shared by the scripts that take a step of a task together with what follows in a queue: for a server that has all
-- partitions. What they are made of stands before this, each script as a function of KEYS and ARGV, whose packed map
-- may also be a table; and TAGS, the tags of the partitions.
--
-- KEYS[1]  the tag of the task's partition
-- KEYS[2]  another one; so who has them on several servers refuses before it begins

local function tag_of(name) return TAGS[tonumber(string.sub(redis.sha1hex(name), 1, 1), 16) + 1] end
