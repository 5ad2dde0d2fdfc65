-- A time as a command's argument, a whole number. Redis writes a Lua number with printf's %.17g, which costs a third of
-- what a ZADD does; and steps that run together have most of their times in common.
local time_texts = {}

local function time_text(time)
  local known = time_texts[time]
  if not known then
    known = string.format('%d', time)
    time_texts[time] = known
  end
  return known
end
