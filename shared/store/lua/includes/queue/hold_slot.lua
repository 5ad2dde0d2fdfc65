-- @include common/time_text
-- @include queue/keys
local function holds_slot(entry) return redis.call('ZSCORE', held_key, entry) end

-- An entry whose event was published awaits a claim, as far as the queue knows, until its backend accepts it. It is told
-- apart by its score, which is this much more than the time of its check.
local AWAITS_CLAIM_MS = 2 ^ 45

local function hold_slot(queue, entry, is_published)
  local check_at = queue_now + queue_arg.claim
  redis.call('ZADD', held_key, time_text(is_published and AWAITS_CLAIM_MS + check_at or check_at), entry)
  queue.h = queue.h + 1
end

-- By the score of an entry that holds a slot.
local function awaits_claim(score) return tonumber(score) >= AWAITS_CLAIM_MS end

-- What was never claimed is not at the backend, and teaches nothing about its slots.
local function count_unclaimed() return redis.call('ZCOUNT', held_key, AWAITS_CLAIM_MS, '+inf') end
