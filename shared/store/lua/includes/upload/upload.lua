-- An upload: a blob that a client writes itself, and what it is to become. Its key is named in task/keys.lua; its deadline
-- stands among those of the tasks, as 'u/<id>', which no task's id can be.
--
-- The fields of its record, a packed map:
--   z  bytes       t  content type      c  content encoding    h  SHA-256, if declared     o  owner
--   e  until when it can be used, in ms
--   b  the blob    d  the task whose result it is to be, and a  the attempt; absent: it is to be the body of a new task
--   T  who has taken it: the task, or the task and the attempt     S  the snapshot that was taken then     k  by which
--      operation
-- @include task/keys

local function load_upload(id)
  local raw = redis.call('GET', task_key('u:' .. id))
  if raw then return cmsgpack.unpack(raw), raw end
end

local function save_upload(id, upload)
  local raw = cmsgpack.pack(upload)
  redis.call('SET', task_key('u:' .. id), raw)
  return raw
end

-- One that is taken can be used by its taker as long as it is known.
local function is_usable(upload, now) return upload.T or now < upload.e end
