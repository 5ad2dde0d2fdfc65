-- Stores a new task with its body, indexes and deadline: from here it is safe.
--
-- ARGV[1]  packed map: now, id, op, due_in (ms), who, brief (status for the history), rec (the record but for its times)
-- ARGV[2]  the inline body, or ''
-- Returns  {'created', now}: the caller knows the rest; to a replay {'created', record}
--          {'exists', record} when the id was taken: nothing changed, but that it can no longer be withdrawn
local arg = given(ARGV[1])
local now, rec = now_ms(arg.now), arg.rec
rec.c, rec.m, rec.q, rec.v, rec.k, rec.h = now, now, now, 1, arg.op, ''
remember(rec, now, arg.who, arg.brief)
local key, stored = record_key(arg.id), packed(rec)
local keys = { key, stored }
if rec.b and not rec.b[3] then keys = { key, stored, body_key(arg.id), ARGV[2] } end
if redis.call('MSETNX', unpack(keys)) == 0 then
  local known, raw = load(arg.id)
  if known and known.k == arg.op then return { 'created', raw, replay = true } end
  if known then
    if known.s == 'created' and known.v == 1 and not known.W then
      known.W = true
      save(arg.id, known)
    end
    return { 'exists', raw }
  end
  -- A body whose record was lost.
  redis.call('MSET', unpack(keys))
end
redis.call('SADD', paths_key(), rec.p)
index(arg.id, rec)
set_due(arg.id, now + arg.due_in)
return { 'created', now }
