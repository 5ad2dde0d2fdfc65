-- The keys of tasks are named here and nowhere else.
--
-- Every key of a task begins with the hash tag of its partition, such as {04s}, so one script can reach all of a task,
-- on one node of a cluster too. `task_tag` is that tag. A combined script sets it again for each task.
--
--   <tag>t:<id>             string   the record, a packed map, see record.lua
--   <tag>b:<id>             string   the request body, up to the inline limit
--   <tag>r:<id>             string   the result, up to the inline limit
--   <tag>z:<path>:<state>   zset     ids by the time of creation
--   <tag>z:<path>:again     zset     the same for tasks that wait anew, after a next step or a replay; these are not in
--                                    'created'
--   <tag>z:<path>:since     zset     the tasks in 'again' by the time they entered the queue
--   <tag>due                zset     one deadline per task, see sweep.lua
--   <tag>paths              set      the endpoint paths that have tasks here
--   <tag>fenced             zset     the endpoint paths whose services have numbered their reports or sent heartbeats, by
--                                    when that was noted, see note_fenced.lua
--   <tag>q…                          the queues that lie here, see queue/keys.lua
--   <tag>requests           hash     requests in flight, see requests/report.lua
--
-- Each function that a script defines costs each of its runs 0.5 %, so the key of few scripts has a file of its own.
--
-- A channel has the name of a record's key, and each change of the record is published on it, see record.lua.
local task_tag

local function record_key(id) return task_tag .. 't:' .. id end
local function body_key(id) return task_tag .. 'b:' .. id end
local function result_key(id) return task_tag .. 'r:' .. id end
local function index_key(path, state) return task_tag .. 'z:' .. path .. ':' .. state end
local function due_key() return task_tag .. 'due' end
local function paths_key() return task_tag .. 'paths' end
