-- The keys of queues are named here and nowhere else.
--
-- A queue is an index over the records: the attempts that wait at one endpoint path for a slot of its backend, and those
-- that hold one. An entry is named `<task id>.<attempt>`. The entry of an attempt that is no longer current is harmless,
-- for nothing can claim it. All keys begin with the hash tag of the partition that the path falls in.
--
--   <tag>q:<path>           string   the queue's state, a packed map, see state.lua
--   <tag>qs:<path>          string   the operator's settings, a packed map: paused, draining, limit, rate ({how many grants,
--                                    within how many ms}), burst (1: they may come at once, 0: evenly); at (when one was
--                                    changed last) and by (which operator; absent: not known); kept (true: the record has
--                                    them)
--   <tag>settings           hash     by path, the record of these settings: the same packed map. They are restored from it
--                                    where they were lost, see state.lua and keep_settings.lua
--   <tag>qo:<path>          zset     owners that have an entry waiting, by their virtual time (fair queuing)
--   <tag>qw:<path> <owner>  zset     an owner's waiting entries, by rank
--   <tag>ql:<path>          zset     new entries that start later, by when they do, where there is a bound to how many may wait,
--                                    see delay_entry.lua
--   <tag>ql:<path> <owner>  zset     the same of one owner, where there is a bound to how many of an owner's may wait
--   <tag>qh:<path>          zset     entries that hold a slot, by when the reconciler is to check them again, see
--                                    hold_slot.lua
--   <tag>qb:<path>          zset     `<owner> <entry>` of entries that hold a slot, where an owner's may hold only so many, see
--                                    owner_bound.lua
--   <tag>qi:<path>          hash     by instance of the backend, {how many tasks it holds at a time, when it told}, packed
--   <tag>qr:<path>          list     when slots were granted of late, under a rate whose grants may come in a burst, see
--                                    rate.lua
--   <tag>rated              set      the paths at which slots were ever granted under a rate, see rate.lua
--   <tag>queues             set      the paths at which any entry holds a slot
--   <tag>outages            hash     by path, the outages of backends: {since, its end or 0, cause}, packed. One that is
--                                    over is kept for as long as leases that began before it may end
-- @include common/now_ms
local queue_tag, queue_arg, queue_now
local queue_key, settings_key, owners_key, held_key
local previous_path
local SETTINGS_RECORD = 'settings'

-- `arg` is a map of now (0: the server's clock), path, cap (the configured limit, false: none; absent: as last given), rate
-- (the configured one, as the state's field R; absent with a cap: none), bound (likewise, as W), claim (ms within which a
-- granted entry is to be claimed), and what the step needs.
local function begin_queue(tag, arg)
  queue_tag, queue_arg = tag, arg
  queue_now = now_ms(arg.now)
  local path = arg.path
  -- A path has one partition, and steps that run together are mostly of one path.
  if path ~= previous_path then
    queue_key, settings_key = tag .. 'q:' .. path, tag .. 'qs:' .. path
    owners_key, held_key = tag .. 'qo:' .. path, tag .. 'qh:' .. path
    previous_path = path
  end
end

local function waiting_key(owner) return queue_tag .. 'qw:' .. queue_arg.path .. ' ' .. owner end

-- Of all owners, if none is named.
local function delayed_key(owner) return queue_tag .. 'ql:' .. queue_arg.path .. (owner and ' ' .. owner or '') end

local function holders_key() return queue_tag .. 'qb:' .. queue_arg.path end

local function instances_key() return queue_tag .. 'qi:' .. queue_arg.path end

local function rate_key() return queue_tag .. 'qr:' .. queue_arg.path end

local function rated_paths_key() return queue_tag .. 'rated' end

local function held_paths_key(tag) return tag .. 'queues' end

local function outages_key(tag) return tag .. 'outages' end
