-- @include common/time_text
-- @include queue/keys
local function holds_slot(entry) return redis.call('ZSCORE', held_key, entry) end

-- An entry whose event was published awaits a claim, as far as the queue knows, until its backend accepts it. It is told
-- apart by its score, which is this much more than the time of its check.
local AWAITS_CLAIM_MS = 2 ^ 45
-- What its owner was charged a turn for shows there too, until it is checked: a quarter of a millisecond more.
local CHARGED = '.25'

local function hold_slot(queue, entry, is_published, is_charged)
  local check_at = queue_now + queue_arg.claim
  local score = time_text(is_published and AWAITS_CLAIM_MS + check_at or check_at)
  redis.call('ZADD', held_key, is_charged and score .. CHARGED or score, entry)
  queue.h = queue.h + 1
end

local function is_charged_for(entry) return tonumber(holds_slot(entry) or 0) % 0.5 ~= 0 end

-- By the score of an entry that holds a slot.
local function awaits_claim(score) return tonumber(score) >= AWAITS_CLAIM_MS end

-- What was never claimed is not at the backend, and teaches nothing about its slots.
local function count_unclaimed() return redis.call('ZCOUNT', held_key, AWAITS_CLAIM_MS, '+inf') end
