-- The server's clock is the one clock that all processes share. Tests pass their own time.
local clock_ms

local function now_ms(given)
  if given > 0 then return given end
  if not clock_ms then
    local time = redis.call('TIME')
    clock_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return clock_ms
end
