-- Takes an upload for a task, or for an attempt of one. One taker gets it, and always with its first snapshot.
--
-- KEYS[1]  the hash tag of its partition
-- ARGV[1]  packed map: now, op, id, taker, snapshot
-- Returns  the record: T in it is who has it; or false if it is unknown or can no longer be used
-- @include common/now_ms
-- @include upload/upload
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local upload, raw = load_upload(arg.id)
if not upload or not is_usable(upload, now_ms(arg.now)) then return false end
if upload.T and upload.T ~= arg.taker then return raw end
-- The caller has found it taken, and it was given back since.
if not upload.T and arg.snapshot == '' then return raw end
if not upload.T then upload.T, upload.S = arg.taker, arg.snapshot end
-- Only the last one that took it may give it back: an earlier one does not know of it.
upload.k = arg.op
return save_upload(arg.id, upload)
