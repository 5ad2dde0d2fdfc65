-- Removes what is left of tasks whose records are gone, at a cost that does not grow with the tasks: it looks at a few
-- index entries of a few paths, drawn by chance, and goes on where it finds one that is lost. Among the tasks that have yet
-- to start, those are lost too that a process of an earlier version has ended, or begun again: it knows no such index.
--
-- KEYS[1]  the hash tag of the partition
-- ARGV[1]  packed map: seed, names (what else has indexes: 'batches', pipelines), paths (how many are looked at), entries
--          (how many of an index are looked at at a time), most (of an index in all), few (of the tasks that have yet to
--          start, how many are looked at at a time, by their records; absent: none, as in most calls)
-- Returns  {the paths at which it found any,
--          {{path, id, owner}, …} of those that were to start later and will not: the queue forgets them}
-- @include task/forget_lost
-- @include task/terminal
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
math.randomseed(arg.seed)

-- Those of some entries of an index that have no record.
local function lost_entries(path, index)
  local key = task_key('z:' .. path .. ':' .. index)
  local count = redis.call('ZCARD', key)
  if count == 0 then return {} end
  local first = count > arg.entries and math.random(0, count - arg.entries) or 0
  local ids, records, lost = redis.call('ZRANGE', key, first, first + arg.entries - 1), {}, {}
  for i, id in ipairs(ids) do records[i] = task_key('t:' .. id) end
  if redis.call('EXISTS', unpack(records)) < #ids then
    for i, id in ipairs(ids) do
      if redis.call('EXISTS', records[i]) == 0 then lost[#lost + 1] = id end
    end
  end
  return lost
end

local function look_at_index(path, index)
  local is_found = false
  for _ = 1, arg.most, arg.entries do
    local lost = lost_entries(path, index)
    if #lost == 0 then break end
    forget_lost(lost, { path })
    is_found = true
  end
  return is_found
end

local function look_at(path)
  local is_found = false
  local indexes = all_states()
  indexes[#indexes + 1], indexes[#indexes + 2] = 'again', 'since'
  for _, index in ipairs(indexes) do is_found = look_at_index(path, index) or is_found end
  return is_found
end

-- Forgets those of some delayed entries that will not start. Returns whether there were any.
local function look_at_delayed(path, ended)
  local key, records, lost = task_key('z:' .. path .. ':delayed'), {}, {}
  local count = redis.call('ZCARD', key)
  if count == 0 then return false end
  local first = count > arg.few and math.random(0, count - arg.few) or 0
  local ids, had = redis.call('ZRANGE', key, first, first + arg.few - 1), #ended
  for i, id in ipairs(ids) do records[i] = task_key('t:' .. id) end
  for i, raw in ipairs(redis.call('MGET', unpack(records))) do
    local is_read, rec = pcall(cmsgpack.unpack, raw or '')
    if not raw then
      lost[#lost + 1] = ids[i]
    elseif is_read and type(rec) == 'table' and type(rec.a) == 'number' and (is_terminal(rec.s) or rec.a > 1) then
      for _, index in ipairs({ path, rec.Y }) do redis.call('ZREM', task_key('z:' .. index .. ':delayed'), ids[i]) end
      redis.call('ZREM', task_key('starts'), ids[i])
      ended[#ended + 1] = { path, ids[i], rec.o or '' }
    end
  end
  forget_lost(lost, { path })
  return #lost > 0 or #ended > had
end

local found, ended = {}, {}
for _, set in ipairs({ 'paths', 'ended_paths' }) do
  for _, path in ipairs(redis.call('SRANDMEMBER', task_key(set), arg.paths)) do
    if look_at(path) then found[#found + 1] = path end
  end
end
for _, name in ipairs(arg.names) do look_at(name) end
if arg.few then
  local delayed_paths = task_key('delayed_paths')
  for _, path in ipairs(redis.call('SRANDMEMBER', delayed_paths, arg.paths)) do
    for _ = 1, arg.most, arg.few do
      if not look_at_delayed(path, ended) then break end
    end
    if redis.call('EXISTS', task_key('z:' .. path .. ':delayed')) == 0 then redis.call('SREM', delayed_paths, path) end
  end
  for _, name in ipairs(arg.names) do look_at_index(name, 'delayed') end
end
return { found, ended }
