-- One partition's part of a page of tasks, newest first. Costs by the page and the paths, not by the tasks: what the
-- filter passes over is bounded too, and the next page goes on from there.
--
-- ARGV[1]  packed map: path, state, owner (absent: any), limit, look (how many index entries to look at, at most),
--          before {ms, id} (absent: from the newest)
-- Returns  {{{created ms, id, record}, …}, {ms, id} up to which all was looked at, or false for to the end}
local arg = cmsgpack.unpack(ARGV[1])
local paths = arg.path and { arg.path } or redis.call('SMEMBERS', PATHS)

local function newer(a, b) return a[1] > b[1] or a[1] == b[1] and a[2] > b[2] end

local found, complete_to = {}, false
for _, path in ipairs(paths) do
  local from, offset, looked, count = arg.before and arg.before[1] or '+inf', 0, 0, 0
  local stopped = false
  repeat
    local page = redis.call('ZREVRANGEBYSCORE', list_key(path), from, '-inf', 'WITHSCORES', 'LIMIT', offset, arg.limit)
    for i = 1, #page, 2 do
      local entry = { tonumber(page[i + 1]), page[i] }
      if not arg.before or newer(arg.before, entry) then
        looked = looked + 1
        local passes = not arg.state or redis.call('ZSCORE', index_key(path, arg.state), entry[2])
        local raw = passes and redis.call('GET', record_key(entry[2]))
        if raw and (not arg.owner or cmsgpack.unpack(raw).o == arg.owner) then
          entry[3] = raw
          found[#found + 1] = entry
          count = count + 1
        end
        if count == arg.limit or looked == arg.look then
          stopped = { entry[1], entry[2] }
          break
        end
      end
    end
    offset = offset + arg.limit
  until stopped or #page < 2 * arg.limit
  if stopped and (not complete_to or newer(stopped, complete_to)) then complete_to = stopped end
end
return { found, complete_to }
