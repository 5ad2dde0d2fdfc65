-- Where the requests in flight are kept, and how long what unnamed reporters said counts after the last of it.
--
-- A counter is {sum of the unnamed, {op, …}, shares, time of the last unnamed report}. Without an op it has only been
-- reserved, and counts as never reported. The shares of up to 32 instances are {instance → {count, until}}, as a former
-- version keeps them all. With more, each report would cost more: then it is {'' → {sum of them, until}}, which a former
-- version reads as one more instance, and the shares have two keys of their own.
local UNNAMED_KEPT_MS = 24 * 3600 * 1000

-- The key of all counters, of when each was reported last, or of one counter's shares or their ends.
local function requests_key(tag, part, field)
  return tag .. 'requests' .. (part and ':' .. part or '') .. (field and ':' .. field or '')
end

local function unnamed(kept, now)
  return kept[4] and now - kept[4] >= UNNAMED_KEPT_MS and 0 or kept[1]
end
