-- Finds one partition's part of a page of tasks, newest first. Costs by the page and the paths, not by the tasks: the
-- entries that the filter skips are bounded too, and the next page goes on from there. The records stay here: of what
-- the partitions find, a page shows a part; see records.lua.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV[1]  packed map: path, states, owner, text (in lower case; in the id, the path or the status text), attempts (at
--          least) (absent: any), hides (true: who asks is the owner, and must not learn how many tasks others have), limit,
--          look (how many index entries to read, at most), before {ms, id} (absent: from the newest), since (ms, absent: to
--          the oldest)
-- Returns  {{{created ms, id, size of the record in bytes}, …}, {ms, id} of the last entry that was read, or false at
--          the end, {created ms of each entry that the filter skipped and that may be told of, …} packed}. If the last
--          entry was skipped, all of its millisecond have been read, and the id is empty: a caller is told no id of
--          another's.
-- @include task/keys
-- @include task/states
local CHUNK = 32
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local delayed_paths = task_key('delayed_paths')
local paths = arg.path and { arg.path } or redis.call('SUNION', task_key('paths'), task_key('ended_paths'), delayed_paths)
local states = arg.states or all_states()
for _, state in ipairs(states) do
  if state == 'created' then
    states[#states + 1] = 'again'
    if redis.call('EXISTS', delayed_paths) == 1 then states[#states + 1] = 'delayed' end
    break
  end
end

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
        'ZREVRANGEBYSCORE', cursor.key, from, arg.since or '-inf', 'WITHSCORES', 'LIMIT', cursor.read, CHUNK)
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

local function has_text(id, rec)
  if type(rec.p) ~= 'string' or type(rec.x) ~= 'string' then return false end
  return string.find(string.lower(table.concat({ id, rec.p, rec.x }, '\0')), arg.text, 1, true)
end

-- The size of the record at an index entry; 0 if there is none, or the filter skips it. And whether it is to be hidden.
local function listed_size(id)
  if not (arg.owner or arg.text or arg.attempts) then return redis.call('STRLEN', task_key('t:' .. id)) end
  local raw = redis.call('GET', task_key('t:' .. id))
  local is_read, rec = pcall(cmsgpack.unpack, raw or '')
  -- What somebody else has written is removed later.
  if not is_read or type(rec) ~= 'table' or type(rec.a) ~= 'number' then return 0, arg.hides end
  if arg.owner and rec.o ~= arg.owner then return 0, arg.hides end
  if arg.attempts and rec.a < arg.attempts then return 0 end
  return (not arg.text or has_text(id, rec)) and #raw or 0
end

local found, skipped, looked, last, is_found = {}, {}, 0, nil, false
while true do
  local newest
  for _, cursor in ipairs(cursors) do
    if cursor.head and (not newest or newer(cursor.head, newest.head)) then newest = cursor end
  end
  if not newest then return { found, false, cmsgpack.pack(skipped) } end
  local entry = newest.head
  if looked >= arg.look and (is_found or entry[1] < last[1]) then
    return { found, { last[1], is_found and last[2] or '' }, cmsgpack.pack(skipped) }
  end
  -- One that a process of an earlier version has started is among the delayed ones too, which that does not know.
  if not last or entry[2] ~= last[2] then
    local size, is_hidden = listed_size(entry[2])
    looked, last, is_found = looked + 1, entry, size > 0
    if is_found then
      found[#found + 1] = { entry[1], entry[2], size }
    elseif not is_hidden then
      skipped[#skipped + 1] = entry[1]
    end
    if #found == arg.limit then return { found, { entry[1], entry[2] }, cmsgpack.pack(skipped) } end
  end
  advance(newest)
end
