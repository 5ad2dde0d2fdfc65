-- Finds what is overdue in one partition and takes the next step for each; two at once never get the same task.
--
-- A task's one deadline means, by its state:
--   created      it has waited long, or on its own long enough: see that it stands in its endpoint's queue
--   dispatched, running, or created but not to be dispatched: nothing was heard for a lease: a new attempt
--   finished     its end is to be announced (again), or it was kept long enough: remove
--
-- ARGV[1]  packed map: now, op, limit, max_attempts, publish_base, cap, wait_cap, retention, announce,
--          blob_grace (ms), seed
-- Returns  {{what, id, record?}, …}, at most limit of them. What was done:
--          'waits', 'retry' (a new attempt): the caller is to offer it to its queue; 'failed'; 'purged';
--          'announce': the caller is to announce its end, as that of one that 'failed' if it has y;
--          'blobs': the task is past retention, its blobs have to go first; then `forget` it.
local arg = cmsgpack.unpack(ARGV[1])
local now = now_ms(arg.now)
math.randomseed(arg.seed)
local done = {}

local function fail(id, rec, status) done[#done + 1] = { 'failed', id, give_up(id, rec, status, now, arg) } end

-- The queue is where a task waits; that it is there is looked at ever more seldom.
local function look_again(id, rec, what)
  rec.z = (rec.z or 0) + 1
  set_due(id, now + backoff(arg.publish_base, arg.wait_cap, rec.z))
  done[#done + 1] = { what, id, save(id, rec) }
end

local function lease_over(id, rec)
  rec.f = rec.f + 1
  local silence = 'the backend was not heard of for too long'
  if not rec.w then
    fail(id, rec, 'Failed - ' .. silence .. '.')
  elseif rec.f >= arg.max_attempts then
    fail(id, rec, 'Failed - ' .. silence .. ' (attempt ' .. rec.f .. ' of ' .. arg.max_attempts .. ').')
  else
    retry(id, rec)
    enter(id, rec, 'created', rec.p)
    rec.x = 'Retrying - ' .. silence
    remember(rec, now, 'reconciler', rec.x)
    rec.m, rec.v, rec.k = now, rec.v + 1, arg.op
    look_again(id, rec, 'retry')
  end
end

local function step(id, rec)
  if TERMINAL[rec.s] then
    if rec.y and now < rec.m + arg.retention then
      rec.n = rec.n + 1
      set_due(id, math.min(now + backoff(arg.publish_base, arg.cap, rec.n), rec.m + arg.retention))
      done[#done + 1] = { 'announce', id, save(id, rec) }
    elseif rec.g then
      set_due(id, now + arg.blob_grace)
      done[#done + 1] = { 'blobs', id }
    else
      purge(id, rec)
      done[#done + 1] = { 'purged', id }
    end
  elseif rec.s == 'created' and rec.w then
    look_again(id, rec, 'waits')
  else
    lease_over(id, rec)
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', due_key(), '-inf', now, 'LIMIT', 0, arg.limit)) do
  -- Redis when full refuses a script's first write if that needs room. This one never does, so a full Redis is still
  -- swept, and so gets room again.
  redis.call('ZREM', due_key(), id)
  local rec = load(id)
  if rec then step(id, rec) end
end
return done
