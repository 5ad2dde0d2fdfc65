-- Sets a task's one deadline. Returns 1 if it had none.
-- @include common/time_text
-- @include task/keys
local function set_due(id, at) return redis.call('ZADD', task_key('due'), time_text(at), id) end
