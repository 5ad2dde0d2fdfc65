-- Takes a step for each group of `count` arguments. Callers that ask at the same moment share one script run.
-- Returns what each step returned, or its error.
local function each_step(count, step)
  local replies = {}
  for first = 1, #ARGV, count do
    local is_done, reply = pcall(step, unpack(ARGV, first, first + count - 1))
    if not is_done and type(reply) == 'string' then reply = redis.error_reply(reply) end
    replies[#replies + 1] = reply
  end
  return replies
end
