-- Sets a task's one deadline.
-- @include common/time_text
-- @include task/keys
local function set_due(id, at) redis.call('ZADD', task_key('due'), time_text(at), id) end
