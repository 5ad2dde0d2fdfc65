-- Reports how a queue stands, and where one entry stands in it if it is given.
--
-- KEYS[1]  the hash tag of the path's partition
-- ARGV[1]  packed map, see queue/keys.lua, and: entry, owner, queued_at, priority (absent: no entry)
-- Returns  {waiting, holding a slot, capacity estimate, limit or -1, paused, draining,
--           the entry's position if it waits (see position.lua) or false,
--           the outage of the backend, packed as outages_key has it, or false if there is none;
--           without an entry also: whether the backend is down, before when nothing is dispatched to it or 0,
--           whether tasks wait that it takes no slot for at present, mean service time in ms or -1,
--           when a setting was changed last or 0, by which operator or '',
--           the rate in force {how many grants, within how many ms, 1 if they may come at once, else 0} or false,
--           in how many ms that allows the next grant: 0 if it does now, as far as is known}
-- @include queue/position

-- So long ago is what was learned by failures not held against the backend any more, as with an outage.
local FAILED_KEPT_MS = 86400000

begin_queue(KEYS[1], cmsgpack.unpack(ARGV[1]))
local arg, queue, settings = queue_arg, load_queue(), queue_settings()
local cap = settings.limit or queue.i
local outage = queue.O and redis.call('HGET', outages_key(queue_tag), arg.path) or false
local reply = {
  queue.w, queue.h, queue.l, cap or -1, settings.paused and 1 or 0, settings.draining and 1 or 0,
  arg.entry and position(queue, arg.entry, arg.owner, arg.queued_at, arg.priority) or false,
  outage,
}
if not arg.entry then
  local paused_until = queue.o or 0
  local fails = paused_until > 0 and not queue.O and paused_until > queue_now - FAILED_KEPT_MS
  local refuses = (queue.b or 0) > queue_now or (queue.r or 0) > 0 or (queue.T or 0) > 0
  for _, part in ipairs({
    (outage or fails) and 1 or 0, paused_until > queue_now and paused_until or 0,
    queue.w > 0 and queue.h >= queue.l and refuses and 1 or 0, queue.c and math.floor(queue.s / queue.c) or -1,
    type(settings.at) == 'number' and settings.at or 0, type(settings.by) == 'string' and settings.by or '',
  }) do
    reply[#reply + 1] = part
  end
  local rate = (settings.rate or queue.R) and rate_of(queue, settings)
  reply[#reply + 1] = rate and { rate.most, rate.window, rate.is_burst and 1 or 0 } or false
  reply[#reply + 1] = rate and queue.L and math.max(0, math.ceil(rate.allows_at() - queue_now)) or 0
end
write_queues()
return reply
