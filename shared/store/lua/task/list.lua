-- Reads one partition's part of a page of tasks, newest first. Costs by the page and the paths, not by the tasks: the
-- entries that the filter skips are bounded too, and the next page goes on from there.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV[1]  packed map: path, state, owner (absent: any), limit, look (how many index entries to read, at most),
--          before {ms, id} (absent: from the newest)
-- Returns  {{{created ms, id, record}, …}, {ms, id} of the last entry that was read, or false at the end}
-- @include task/keys
-- @include task/states
local CHUNK = 32
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local paths = arg.path and { arg.path } or redis.call('SMEMBERS', task_key('paths'))
local states = { arg.state }
if not arg.state then states = all_states() end
if states[1] == 'created' then states[#states + 1] = 'again' end

local function newer(a, b) return a[1] > b[1] or a[1] == b[1] and a[2] > b[2] end

-- The next entry of an index, read some at a time.
local function advance(cursor)
  repeat
    if cursor.at > #cursor.page then
      if cursor.ended then
        cursor.head = nil
        return
      end
      local from = arg.before and arg.before[1] or '+inf'
      cursor.page = redis.call(
        'ZREVRANGEBYSCORE', cursor.key, from, '-inf', 'WITHSCORES', 'LIMIT', cursor.read, CHUNK)
      cursor.read, cursor.at, cursor.ended = cursor.read + CHUNK, 1, #cursor.page < 2 * CHUNK
    end
    cursor.head = cursor.page[cursor.at] and { tonumber(cursor.page[cursor.at + 1]), cursor.page[cursor.at] }
    cursor.at = cursor.at + 2
  until not cursor.head or not arg.before or newer(arg.before, cursor.head)
end

local cursors = {}
for _, path in ipairs(paths) do
  for _, state in ipairs(states) do
    local cursor = { key = task_key('z:' .. path .. ':' .. state), page = {}, at = 1, read = 0 }
    advance(cursor)
    if cursor.head then cursors[#cursors + 1] = cursor end
  end
end

local found, looked = {}, 0
while true do
  local newest
  for _, cursor in ipairs(cursors) do
    if cursor.head and (not newest or newer(cursor.head, newest.head)) then newest = cursor end
  end
  if not newest then return { found, false } end
  local entry = newest.head
  looked = looked + 1
  local raw = redis.call('GET', task_key('t:' .. entry[2]))
  if raw and (not arg.owner or cmsgpack.unpack(raw).o == arg.owner) then
    found[#found + 1] = { entry[1], entry[2], raw }
  end
  if #found == arg.limit or looked == arg.look then return { found, { entry[1], entry[2] } } end
  advance(newest)
end
