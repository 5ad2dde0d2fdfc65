-- The operator's settings and their record, which say the same. An older version writes the settings alone; it leaves what
-- it does not know, so that they are never without `kept` where there is a record.
-- @include queue/state
local ABOUT_SETTINGS = { at = true, by = true, kept = true }

local function settings_of(raw)
  local is_read, settings = pcall(cmsgpack.unpack, raw or '')
  return is_read and type(settings) == 'table' and settings or nil
end

-- Writes the packed settings to the record, or takes them out. What is no record was written by somebody else: it is lost.
local function record_settings(packed)
  local key = queue_tag .. SETTINGS_RECORD
  local words = packed and { 'HSET', key, queue_arg.path, packed } or { 'HDEL', key, queue_arg.path }
  if type(redis.pcall(unpack(words))) == 'table' then
    redis.call('DEL', key)
    redis.call(unpack(words))
  end
end

local function keep_settings(queue, settings)
  local is_set = false
  for name in pairs(settings) do is_set = is_set or not ABOUT_SETTINGS[name] end
  local known, packed = read_queues[queue_key], nil
  if is_set then
    settings.kept = true
    packed = cmsgpack.pack(settings)
    redis.call('SET', settings_key, packed)
  else
    redis.call('DEL', settings_key)
  end
  record_settings(packed)
  queue.K = is_set or nil
  known.settings, known.restored = is_set and settings or {}, nil
  save_queue()
end

-- Makes the two agree: after a loss, or as an older version has changed the settings; nobody knows who did.
local function mend_settings(queue)
  if read_queues[queue_key].restored then return end
  local raw, record = redis.pcall('GET', settings_key), redis.pcall('HGET', queue_tag .. SETTINGS_RECORD, queue_arg.path)
  if raw == record then return end
  local settings, recorded = settings_of(raw), settings_of(record)
  if settings and recorded then settings.at, settings.by = nil, nil end
  keep_settings(queue, settings or recorded or {})
end
