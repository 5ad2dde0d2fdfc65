-- @include task/keys
local function fenced_key() return task_tag .. 'fenced' end
