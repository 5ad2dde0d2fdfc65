-- Adds what a queue's state has counted to the rows of the series, and to the sums.
-- @include queue/series_keys
-- @include queue/series_rows

-- Of a path, and of all paths of one partition: both grow a little until they are looked at again.
local MOST_BYTES, MOST_BYTES_IN_ALL = 298 * 1024, 3.5 * 1024 * 1024
-- So many paths are added to `other` at once, so that its rows are not written anew for each.
local LEAST_USED = 16

local function rows_bytes(tag, path)
  local sum = call_own('STRLEN', sum_key(tag, path))
  for _, span in ipairs(SERIES_SPANS) do
    local bytes = redis.pcall('MEMORY', 'USAGE', tag .. span[1] .. path, 'SAMPLES', 0)
    -- A user who may not ask that gets an estimate.
    if type(bytes) == 'table' then bytes = 80 * redis.call('LLEN', tag .. span[1] .. path) end
    sum = sum + (bytes or 0)
  end
  return sum
end

-- The hours that are longest ago go first.
local function bounded_bytes(tag, path)
  local bytes, hours = rows_bytes(tag, path), tag .. 's60:' .. path
  while bytes > MOST_BYTES and redis.call('LLEN', hours) > 24 do
    redis.call('LTRIM', hours, math.ceil(redis.call('LLEN', hours) / 8), -1)
    bytes = rows_bytes(tag, path)
  end
  return bytes
end

local function note_bytes(tag, path, minute)
  call_own('ZADD', tag .. 'series', minute, path)
  call_own('HSET', tag .. 'series_bytes', path, bounded_bytes(tag, path))
end

-- Called once an hour for each path in use.
local function bound_rows(tag, path, minute)
  local series, bytes = tag .. 'series', tag .. 'series_bytes'
  local kept = SERIES_SPANS[3][3]
  note_bytes(tag, path, minute)
  for _, key in ipairs({ series, bytes }) do redis.call('PEXPIRE', key, (kept + 60) * 60000) end
  -- Their rows have expired.
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', series, '-inf', minute - kept - 60, 'LIMIT', 0, LEAST_USED)) do
    redis.call('ZREM', series, gone)
    redis.call('HDEL', bytes, gone)
  end
  local sum, least = 0, {}
  for _, each in ipairs(redis.call('HVALS', bytes)) do sum = sum + (tonumber(each) or 0) end
  if sum <= MOST_BYTES_IN_ALL then return end
  for _, each in ipairs(redis.call('ZRANGE', series, 0, LEAST_USED + 1)) do
    if each ~= path and each ~= 'other' then
      least[#least + 1] = each
      redis.call('ZREM', series, each)
      redis.call('HDEL', bytes, each)
    end
  end
  add_rows_to_other(tag, least, minute)
  note_bytes(tag, 'other', minute)
end

local function tallies_row(known)
  local queue = known.queue
  local minute, since = math.floor(known.written / 60000), known.waiting > 0 and queue.S or 0
  local row = { minute, 0, 0, 0, 0, 0, known.waiting, known.held, known.slots, since }
  local waits, runs = {}, {}
  for i = 1, #queue.M do
    local tally = string.byte(queue.M, i)
    if tally >= 64 then
      row[6], runs[tally - 64] = row[6] + 1, (runs[tally - 64] or 0) + 1
    elseif tally >= 32 then
      waits[tally - 32] = (waits[tally - 32] or 0) + 1
    elseif tally >= 1 and tally <= 5 then -- others are of a later version
      row[tally + 1] = row[tally + 1] + 1
    end
  end
  row[11], row[12] = flat_bins(waits), flat_bins(runs)
  return row
end

local function fold_tallies(known)
  local tag, path, row = known.tag, known.path, tallies_row(known)
  local minute, longest = row[1], SERIES_SPANS[3]
  for _, span in ipairs(SERIES_SPANS) do
    local key, minutes, kept = tag .. span[1] .. path, span[2], span[3]
    local at, sum = minute - minute % minutes, row
    local last = unpack_row(call_own('LINDEX', key, -1))
    if last and last[1] == at then
      redis.call('LSET', key, -1, cmsgpack.pack(add_row(last, row)))
    else
      -- The clock was set back: what lies ahead is of now.
      while last and last[1] > at do
        sum = add_row(last, sum)
        redis.call('RPOP', key)
        last = unpack_row(redis.call('LINDEX', key, -1))
      end
      sum[1] = at
      if last and last[1] == at then
        redis.call('LSET', key, -1, cmsgpack.pack(add_row(last, sum)))
      else
        redis.call('RPUSH', key, cmsgpack.pack(sum))
      end
      for _ = 1, 2 do
        local first = unpack_row(redis.call('LINDEX', key, 0))
        if first and first[1] > at - kept then break end
        redis.call('LPOP', key)
      end
      redis.call('PEXPIRE', key, (kept + minutes) * 60000)
      if minutes == 60 then bound_rows(tag, path, at) end
    end
  end
  local sum = unpack_row(call_own('GET', sum_key(tag, path)))
  row[1] = minute
  sum = cmsgpack.pack(sum and add_row(sum, row) or row)
  redis.call('SET', sum_key(tag, path), sum, 'PX', (longest[3] + longest[2]) * 60000)
end
