-- An entry is ahead of one with the next lower priority, that came at the same time, by this much.
local AGE_MS = 600000
-- Entries that come in the same millisecond are told apart by a number within it. Ranks are whole numbers, which Redis
-- handles faster.
local RANKS_PER_MS = 1024

-- The place of an entry among its owner's: the lowest is the next. `since` is in ranks.
local function rank_of(since, priority) return string.format('%d', since - priority * AGE_MS * RANKS_PER_MS) end
