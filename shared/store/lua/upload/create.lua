-- Stores a new upload. It is removed some time after nobody can use it any more, see task/sweep.lua.
--
-- KEYS[1]  the hash tag of its partition
-- ARGV[1]  packed map: now, id, rec (the record without e), valid (for how long it can be used, ms), grace (how much longer
--          it is known, ms)
-- Returns  the record
-- @include common/now_ms
-- @include task/set_due
-- @include upload/upload
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local upload = arg.rec
upload.e = now_ms(arg.now) + arg.valid
set_due('u/' .. arg.id, upload.e + arg.grace)
return save_upload(arg.id, upload)
