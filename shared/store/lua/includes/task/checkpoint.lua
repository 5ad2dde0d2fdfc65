-- Sets or removes what a model service keeps for the next attempt. The caller deletes a blob, see named_blobs.lua.
-- @include task/keys
local function set_checkpoint(id, rec, content, data)
  local key = task_key('k:' .. id)
  if content and not content[3] then
    redis.call('SET', key, data)
  elseif rec.C and not rec.C[3] then
    redis.call('DEL', key)
  end
  rec.C = content
end
