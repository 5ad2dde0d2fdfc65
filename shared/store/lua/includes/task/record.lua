-- The record's fields. Times are milliseconds; an absent field means empty, none or false. In Redis, m and q count from
-- c. Fields have letters because each task has a record, and its size is a promise (docs/performance.md). To set an absent
-- field to nil costs as much as to set it to a value: Lua makes room for it.
--
--   s  state            p  endpoint path     u  query string      x  status text, or the beginning of a long one
--   X  where the whole of a long status text lies: {bytes, blob, digest}
--   a  attempt (fence)  f  failed attempts   n  publishes of this attempt
--   w  dispatch requested                    v  version
--   k  last operation id, by which a replay is recognised
--   j  priority, if it is not the default
--   z  how often its wait was checked; 0: it waits on its own, not in its endpoint's queue
--   d  if that operation was a transition, where it began: the attempt, or {attempt, path} if it left another path
--   c  created at       m  updated at        l  lease in ms
--   q  in the queue since, if that is not since it was created
--   b  body {content type, bytes, blob}      r  result {content type, bytes, blob}; with a content encoding, the first
--      is {content type, content encoding}
--   C  checkpoint {content type, bytes, blob}
--   P  progress of this attempt, 0 to 1
--   e  true if the result is an earlier step's
--   W  true if a create found the task and reported it, so that it may not be withdrawn
--   y  true until the completion event is published, if one is wanted
--   g  true if any blob was ever stored      o  owner    t  traceparent    i  fingerprint
--   h  history, see append_event.lua
--   D  when it was last dispatched, in ms since created
--   F  when its backend was away for it last, by the queue's clock; absent once the backend had room for it or took it
--   U  true if it lost an attempt to an outage, which is excused once
--   S  true if its last failure was its backend's silence, which an outage found next would explain
--   A  true of a dispatched attempt that its backend has accepted
--   H  true of a step of a pipeline until it is heard of, if the previous one sends no attempt: a report without one may
--      be the previous step's
--   E  an end that was reported and takes effect if no other report follows: {state, brief}
--   R  the last attempt that its backend gave back, and how many it gave back in a row without a failure: {attempt, count}
--   L  how often the lease of this attempt is doubled
--   I  for how long an attempt may run, in ms: {most, what the submit asked for?}
--   V  when it expires, in ms since created; absent once a backend has had it
--   N  where it is in its pipeline: {step, steps, the operation that ended the step before, how long its backend took in
--      ms}; the last two from the second step on
--   Y  the name of its pipeline, if that has one
--   M  the attempts that sent it on to another step, and by what: {{attempt, token}, …}
--   B  the batch that it is a child of
--   O  the marks of the last operations that let it begin again, of those that do so once only: {newest, …}
--   G  what makes it a batch: {N name?, T Then task?: {as asked, name of the pipeline, {path, query, lease in ms}, …},
--      S true once sealed, n the last place, t children, c completed, f failed, x cancelled, r to be replayed (of these),
--      K up to which place it was seen that they exist, M up to which that is checked next and Q since when, J what is
--      being done with all of them ('cancel' or 'replay'), P up to which place; g Then tasks so far, d the last one's id,
--      e true once it exists, h how it ended}
--   J  its callback: {d the name of the destination, w of what that wants to be told, each by the first two letters of the
--      state or of 'progress', n the number of the last message, Q the ends that it is to be told {{number, state, when,
--      attempt, since when it is tried}, …}, p progress that it is to be told {number, when}, s when it was tried to be told of
--      progress last, t how often the first of these was tried, r what came of the last try {answer, when}, c who tries now
--      {until when nobody else does, operation}, o what was recorded last {that operation, when it is tried next}, e the attempt with which it has ended last, l its last end, as in Q, D what
--      became of the last ends {{number, state, when, attempt, what, when that was, tries, last answer}, …}}
--   T  when it starts, in ms since created, if it was submitted to start later. q is then as late. Until it has started it
--      is at its first attempt and has 0 in z, see is_delayed.lua
--   Z  true of a task that is removed, but for its blobs; or of a batch that is removed, but for its children
-- @include task/keys

local function pack_record(rec)
  local m, q = rec.m, rec.q
  rec.m = m ~= rec.c and m - rec.c or nil
  if q then rec.q = q ~= rec.c and q - rec.c or nil end
  local raw = cmsgpack.pack(rec)
  rec.m = m
  if q then rec.q = q end
  return raw
end

local function unpack_record(raw)
  local rec = cmsgpack.unpack(raw)
  rec.m = rec.c + (rec.m or 0)
  if rec.q then rec.q = rec.c + rec.q end
  return rec
end

local function load_record(id)
  local raw = redis.call('GET', task_key('t:' .. id))
  if raw then return unpack_record(raw), raw end
end

-- If the record `is_shown` otherwise to its caller from now on, that is published: a message with the version, on the channel
-- that has the name of the record's key. Nobody is asked whether anybody waits. On a cluster, a channel of the task's slot
-- costs no other slots' nodes anything; servers before 7.0 have none. A server that does not let the app publish refuses
-- nothing else.
local function save_record(id, rec, is_shown)
  local key, raw = task_key('t:' .. id), pack_record(rec)
  redis.call('SET', key, raw)
  if is_shown then redis.pcall(redis.REDIS_VERSION_NUM and 'SPUBLISH' or 'PUBLISH', key, rec.v) end
  return raw
end
