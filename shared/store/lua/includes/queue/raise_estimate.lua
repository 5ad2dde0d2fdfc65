-- The backend has accepted an entry that holds a slot, so it holds what it holds with it. An unanswered probe proves
-- nothing. A backend that has ended the probe already may be quick, and others have ended too: what counts is how many
-- there were with it. If others freed a slot meanwhile, it is likely and not sure that the backend holds more; the next
-- answers will tell.
-- @include queue/hold_slot
-- @include queue/outage
-- @include queue/probe_answer_ms
-- @include queue/settle_ms
-- @include queue/state

-- A step's cost grows with the probes that have no answer.
local MOST_PROBES = 64
-- So many probes accepted in a row say that the backend holds far more than was known.
local GROWN = 2

local function raise_estimate(queue, entry, has_ended)
  local is_probe, unsure = queue.p == entry, queue.n
  local is_earlier_probe = queue.Q and queue.Q[entry]
  if is_probe then
    queue.p, queue.u, queue.n, queue.a = nil, nil, nil, nil
  elseif is_earlier_probe then
    queue.Q[entry] = nil
    if next(queue.Q) == nil then queue.Q = nil end
  end
  local searches = queue.B and (is_probe or is_earlier_probe)
  if is_probe and queue.y then
    -- A slot that was refused is there a moment later: it was granted too early.
    if not unsure then queue.e, queue.g = math.min((queue.e or 0) + queue_now - queue.y, SETTLE_MS), nil end
    queue.y = nil
  elseif queue.e then
    queue.e = queue.e > 10 and queue.e * 0.99 or nil
  end
  queue.C = true
  if queue.j then queue.j = nil end
  if queue.d then
    if is_probe or not has_ended then queue.A = queue_now end
    end_failures(queue)
  end
  local had = has_ended and is_probe and queue.m or queue.h - (queue.p and 1 or 0)
  if queue.Q then
    for _ in pairs(queue.Q) do had = had - 1 end
  end
  local unclaimed = had > queue.l and count_unclaimed() or 0
  if unclaimed > 0 then
    had = had - unclaimed
    -- Unanswered probes are left out already.
    local probe = queue.p and holds_slot(queue.p)
    if probe and awaits_claim(probe) then had = had + 1 end
    for earlier in pairs(queue.Q or {}) do
      probe = holds_slot(earlier)
      if probe and awaits_claim(probe) then had = had + 1 end
    end
  end
  local raised = had > queue.l
  if raised then
    queue.l = queue.l + 1
    if is_probe and unsure then queue.a = queue_now + PROBE_ANSWER_MS end
  end
  if is_probe and not unsure or queue.l > (queue.z or 0) + 1 then queue.r = nil end
  if is_probe and (raised or not unsure) then queue.b = nil end
  if searches then
    queue.D = (queue.D or 0) + 1
    if queue.D >= queue.B then
      queue.B, queue.D = math.min(2 * queue.B, math.max(1, queue.l), MOST_PROBES), nil
    end
  elseif is_probe and raised and not unsure then
    queue.N = (queue.N or 0) + 1
    if queue.N >= GROWN then queue.B, queue.N = GROWN, nil end
  end
end
