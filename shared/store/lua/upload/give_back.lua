-- Lets an upload be taken by others, since the task for which it was taken has not come to be.
--
-- KEYS[1]  the hash tag of its partition
-- ARGV[1]  packed map: id, op (the operation that took it)
-- Returns  1 if nobody has it now; 0 if the same task has taken it again meanwhile, or it is unknown
-- @include upload/upload
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local upload = load_upload(arg.id)
if not upload then return 0 end
if upload.k == arg.op then
  upload.T, upload.S, upload.k = nil, nil, nil
  save_upload(arg.id, upload)
end
return upload.T and 0 or 1
