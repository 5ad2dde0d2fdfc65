-- One that was to start later has started, or never will.
-- @include queue/state
local function forget_delayed(entry, owner)
  for _, key in ipairs({ delayed_key(), delayed_key(owner) }) do
    if count_entries(key) > 0 then redis.call('ZREM', key, entry) end
  end
end
