-- Reads an upload that can still be used.
--
-- KEYS[1]  the hash tag of its partition
-- ARGV[1]  its id
-- ARGV[2]  now (0: the server's clock)
-- Returns  the record, or false
-- @include common/now_ms
-- @include upload/upload
task_tag = KEYS[1]
local upload, raw = load_upload(ARGV[1])
return upload and is_usable(upload, now_ms(tonumber(ARGV[2]))) and raw
