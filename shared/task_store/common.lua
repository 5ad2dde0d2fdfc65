-- Before all scripts, of tasks and of queues.

local clock_ms

-- The server's clock is the one clock all processes share; tests give their own.
local function now_ms(given)
  if given > 0 then return given end
  if not clock_ms then
    local time = redis.call('TIME')
    clock_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return clock_ms
end

-- Times as commands take them, whole numbers. A number of Lua's would be written out with printf's %.17g, which costs a
-- third of what a ZADD does; and those who go together have most of theirs in common.
local texts = {}
local function text(time)
  local known = texts[time]
  if not known then
    known = string.format('%d', time)
    texts[time] = known
  end
  return known
end

-- A script's packed map, which a joint script has unpacked already.
local function given(arg) return type(arg) == 'table' and arg or cmsgpack.unpack(arg) end

