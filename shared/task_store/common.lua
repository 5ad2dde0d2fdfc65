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

-- A script's packed map, which a joint script has unpacked already.
local function given(arg) return type(arg) == 'table' and arg or cmsgpack.unpack(arg) end

