-- Tells whether the deadlines of one partition are to be mended: its clock was set back, so that they lie too far ahead, or
-- some of them are lost. The time by the clock stands among the deadlines, so that it is lost with them, as that of 'clock',
-- which no task's id can be: it is later than any deadline, and means nothing to another version of the app.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV     now (0: the server's clock), and '1' if they were mended since it was asked
-- Returns  0; 1 if the clock was set back; 2 if any may be lost, or nobody has looked before
-- @include common/now_ms
-- @include common/time_text
-- @include task/keys

-- Later than any deadline.
local NEVER = 2 ^ 52
-- It is noted so seldom, and so little is forgiven a clock.
local NOTED_AGAIN_MS, FORGIVEN_MS = 10000, 5000
task_tag = KEYS[1]
local due, now = task_key('due'), now_ms(tonumber(ARGV[1]))
local noted = redis.pcall('ZSCORE', due, 'clock')
if type(noted) == 'table' then return 2 end
-- Nothing is written of a partition that was never used.
local used = { due, task_key('paths'), task_key('ended_paths'), task_key('schedules') }
if not noted and redis.call('EXISTS', unpack(used)) == 0 then return 0 end
local since = noted and now - (tonumber(noted) - NEVER)
if ARGV[2] ~= '1' and not since then return 2 end
if ARGV[2] ~= '1' and since < -FORGIVEN_MS then return 1 end
-- A full Redis may refuse it.
if not since or since < 0 or since >= NOTED_AGAIN_MS then redis.pcall('ZADD', due, time_text(NEVER + now), 'clock') end
return 0
