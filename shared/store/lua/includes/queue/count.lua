-- What happens at an endpoint is counted by the steps that write its queue's state anyway: each tally is a byte that is
-- appended to the state. What the state has of a minute that is over goes to the rows of the series, see fold_tallies.lua.
-- shared/store/series.py reads them.
-- @include queue/state
local NEW, RETRY, CANCEL, FAILURE, SUCCESS = '\1', '\2', '\3', '\4', '\5'
-- With a duration, its bin is added. Durations up to 100 ms have bin 0, and each bin after it reaches twice as far. A bin
-- has its end, as the buckets of Prometheus do; durations are whole milliseconds.
local WAITED, RAN = 32, 64

local function timed(tally, ms)
  local _, bin = math.frexp((ms - 0.5) / 100)
  return string.char(tally + math.max(0, math.min(bin, 21)))
end

local function count(tallies)
  local known = read_queues[queue_key]
  known.tallies = known.tallies .. tallies
end
