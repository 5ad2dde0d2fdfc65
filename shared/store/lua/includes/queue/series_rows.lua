-- What can be done with the rows of the series.
-- @include queue/series_keys

local function are_numbers(values, count)
  for at = 1, count do
    if type(values[at]) ~= 'number' then return false end
  end
  return true
end

-- Nil for what is none: somebody else wrote it.
local function unpack_row(raw)
  local is_read, row = pcall(cmsgpack.unpack, raw or '')
  if not is_read or type(row) ~= 'table' or not are_numbers(row, 10) then return nil end
  for at = 11, 12 do
    local bins = row[at]
    if type(bins) ~= 'table' or #bins % 2 == 1 or not are_numbers(bins, #bins) then return nil end
  end
  return row
end

local function flat_bins(counts)
  local flat = {}
  for bin = 0, 21 do
    if counts[bin] then flat[#flat + 1], flat[#flat + 2] = bin, counts[bin] end
  end
  return flat
end

local function add_bins(bins, more)
  local counts = {}
  for _, flat in ipairs({ bins, more }) do
    for i = 1, #flat, 2 do counts[flat[i]] = (counts[flat[i]] or 0) + flat[i + 1] end
  end
  return flat_bins(counts)
end

-- The sum of two rows, which is as things are at the end of the later one.
local function add_row(row, later)
  local sum = { row[1] }
  for at = 2, 6 do sum[at] = row[at] + later[at] end
  for at = 7, 10 do sum[at] = later[at] end
  sum[11], sum[12] = add_bins(row[11], later[11]), add_bins(row[12], later[12])
  return sum
end

-- Replies as the command does. A key of another type was written by somebody else, and is removed.
local function call_own(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) == 'table' and reply.err then
    if not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply.err, 0) end
    redis.call('DEL', key)
    reply = redis.call(command, key, ...)
  end
  return reply
end

-- Adds the rows of some paths to those of `other`, which has no waiting tasks and no slots of its own, and removes them.
local function add_rows_to_other(tag, paths, minute)
  for _, span in ipairs(SERIES_SPANS) do
    local other = tag .. span[1] .. 'other'
    local sums, times, keys = {}, {}, { other }
    for _, path in ipairs(paths) do keys[#keys + 1] = tag .. span[1] .. path end
    for _, key in ipairs(keys) do
      for _, raw in ipairs(call_own('LRANGE', key, 0, -1)) do
        local row = unpack_row(raw)
        if row and row[1] > minute - span[3] then
          for at = 7, 10 do row[at] = 0 end
          local known = sums[row[1]]
          if not known then times[#times + 1] = row[1] end
          sums[row[1]] = known and add_row(known, row) or row
        end
      end
      redis.call('DEL', key)
    end
    table.sort(times)
    for _, time in ipairs(times) do redis.call('RPUSH', other, cmsgpack.pack(sums[time])) end
    redis.call('PEXPIRE', other, (span[3] + span[2]) * 60000)
  end
  for _, path in ipairs(paths) do redis.call('DEL', sum_key(tag, path)) end
end
