-- Stores a new task and lets it wait in the queue of its endpoint, unless that takes none.
--
-- KEYS[2]  the tag of the queue's partition
-- ARGV[1], ARGV[2]  as of create
-- ARGV[3]  as of queue/offer
-- Returns  {what create returns, what queue/offer returns, or false where the id was taken}
local new, offered = cmsgpack.unpack(ARGV[1]), cmsgpack.unpack(ARGV[3])
new.now = now_ms(new.now)
offered.now = new.now
local created = create(KEYS, { new, ARGV[2] })
if created[1] == 'exists' then return { created, false } end
local taken = offer({ KEYS[2] }, { offered })
-- Where somebody was told of the task between this and the first try, it stays, and its deadline sees to it.
if taken[1] ~= 'taken' and withdraw(KEYS, { new.id }) == 0 then taken = { 'taken', {}, -1, false } end
-- The slot that it was granted the first time: nobody has heard of it.
local turn = offered.turns[1][1]
if created.replay and taken.held and redis.call('ZSCORE', taken.held, turn) then table.insert(taken[2], turn) end
return { created, taken }
