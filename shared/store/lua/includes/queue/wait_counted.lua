-- Whether the wait of an entry was counted shows in its score, where a step may be taken twice: half a millisecond less.
-- @include queue/hold_slot
local function is_wait_counted(score) return tonumber(score) % 1 >= 0.5 end

local function mark_wait_counted(entry)
  local score = holds_slot(entry)
  if score then redis.call('ZADD', held_key, string.format('%.2f', tonumber(score) - 0.5), entry) end
end
