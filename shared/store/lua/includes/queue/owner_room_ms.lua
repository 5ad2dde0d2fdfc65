-- When there will be room for an owner that has as many entries waiting as it may, in ms; -1: nobody knows. That is once the
-- nth of them, counted from 0, has been granted a slot, and no sooner than `room_ms`.
-- @include queue/position
local function owner_room_ms(queue, owner, nth, room_ms)
  local entry = redis.call('ZRANGE', waiting_key(owner), nth, nth)[1]
  local at = entry and position(queue, entry, owner)
  if not at or at[3] < 0 or room_ms < 0 then return -1 end
  return math.max(room_ms, math.floor((at[1] + 1) * at[3] / at[2]), at[4] or 0)
end
