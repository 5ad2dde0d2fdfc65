-- Shared by the scripts that take a step of a task together with what follows in a queue: for a server that has all
-- partitions. What they are made of stands before this: each script as a function of KEYS and ARGV, whose packed map may
-- also be a table; save_queues, which ends them; and TAGS, the tags of the partitions.
--
-- KEYS  of two slots of a cluster: so who has these on several servers refuses before it begins
-- ARGV  so many words for each step, one after the other: those who ask at the same moment share what is the same
-- Returns  what each step returns, or its error

local function tag_of(name) return TAGS[tonumber(string.sub(redis.sha1hex(name), 1, 1), 16) + 1] end

local function each(words, step)
  local replies = {}
  for first = 1, #ARGV, words do
    local is_done, reply = pcall(step, unpack(ARGV, first, first + words - 1))
    if not is_done and type(reply) == 'string' then reply = redis.error_reply(reply) end
    replies[#replies + 1] = reply
  end
  save_queues()
  return replies
end
