-- Shared by the scripts that take a step of a task together with what follows in a queue: for a server that has all
-- partitions. What they are made of stands before this: each script as a function of KEYS and ARGV, whose packed map may
-- also be a table; save_queues, which ends them; and TAGS, the tags of the partitions by the code of their digit.
--
-- KEYS  of two slots of a cluster: so who has these on several servers refuses before it begins
-- ARGV  so many words for each step, one after the other: those who ask at the same moment share what is the same
-- Returns  what each step returns, or its error

local function tag_of(name) return TAGS[string.byte(redis.sha1hex(name))] end

-- Of paths, as those who go together are mostly of one.
local path_tags = {}
local function tag_of_path(path)
  local tag = path_tags[path] or tag_of(path)
  path_tags[path] = tag
  return tag
end

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
