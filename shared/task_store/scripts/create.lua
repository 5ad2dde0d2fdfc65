-- Stores a new task with its body, indexes and deadline: from here it is safe.
--
-- ARGV[1]  packed map: now, id, op, due_in (ms), who, brief (status for the history), rec (the record but for its times)
-- ARGV[2]  the inline body, or ''
-- Returns  {'created', now}: the caller knows the rest; to a replay {'created', record}
--          {'exists', record} when the id was taken: nothing changed, but that it can no longer be withdrawn
local arg = given(ARGV[1])
local known, raw = load(arg.id)
if known then
  if known.k == arg.op then return { 'created', raw, replay = true } end
  if known.s == 'created' and known.v == 1 and not known.W then
    known.W = true
    save(arg.id, known)
  end
  return { 'exists', raw }
end

local now = now_ms(arg.now)
local rec = arg.rec
rec.c, rec.m, rec.q, rec.v, rec.k, rec.h = now, now, now, 1, arg.op, ''
remember(rec, now, arg.who, arg.brief)
redis.call('SADD', paths_key(), rec.p)
index(arg.id, rec)
set_due(arg.id, now + arg.due_in)
if not rec.b or rec.b[3] then
  save(arg.id, rec)
else
  redis.call('MSET', record_key(arg.id), packed(rec), body_key(arg.id), ARGV[2])
end
return { 'created', now }
