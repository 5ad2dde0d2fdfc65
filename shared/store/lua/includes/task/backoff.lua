-- Exponential backoff up to a cap. Half of the delay is jitter, so that tasks that failed together do not come back
-- together. The script seeds math.random.
local function backoff(base_ms, cap_ms, nth)
  local delay = math.min(cap_ms, base_ms * 2 ^ math.min(nth - 1, 30))
  return math.floor(delay * (0.5 + 0.5 * math.random()))
end
