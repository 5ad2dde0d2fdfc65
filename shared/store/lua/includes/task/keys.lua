-- The keys of tasks.
--
-- Every key of a task begins with the hash tag of its partition, such as {04s}, so one script can reach all of a task,
-- on one node of a cluster too. `task_tag` is that tag. A combined script sets it again for each task.
--
--   <tag>t:<id>             string   the record, a packed map, see record.lua
--   <tag>b:<id>             string   the request body, up to the inline limit
--   <tag>r:<id>             string   the result, up to the inline limit
--   <tag>k:<id>             string   the checkpoint, up to the inline limit, see checkpoint.lua
--   <tag>n:<id>             string   the steps of its pipeline, packed: {deadline in ms of one that begins, {path, query,
--                                    lease in ms}, …}
--   <tag>z:<path>:<state>   zset     ids by the time of creation; <path> is an endpoint's, or the name of a pipeline
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
-- A channel has the name of a record's key, and each change of the record is published on it, see record.lua.
local task_tag

-- One function for all keys: each function that a script defines costs each of its runs up to 0.5 %.
local function task_key(name) return task_tag .. name end
