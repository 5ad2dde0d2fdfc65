-- Marks the next piece of a batch's failed children as to be replayed. From then on the batch waits for them.
--
-- KEYS[1]  the hash tag of the batch's partition
-- ARGV[1]  packed map: now, id, limit (how many children it looks at), after (see batch/upkeep)
-- Returns  what batch/report returns
-- @include batch/children
-- @include batch/load_batch
-- @include batch/save_batch
-- @include batch/settle
-- @include common/now_ms
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local rec, raw = load_batch(arg.id)
if not rec then return { 'unknown' } end
local batch = rec.G
if batch.J ~= 'replay' then return { 'kept', raw } end
local now, shown = now_ms(arg.now), shown_of(batch)
local entries = children_behind(arg.id, batch.P, arg.limit)
for i = 1, #entries, 2 do
  local place, known, sequence = parse_score(entries[i + 1])
  batch.P = place
  if known == FAILED then
    set_child(arg.id, entries[i], place, AGAIN, sequence)
    count_child(batch, known, -1)
    count_child(batch, AGAIN, 1)
  end
end
if #entries < 2 * arg.limit then batch.J, batch.P = nil, nil end
local is_transition = settle(arg.id, rec, now, arg)
if not is_terminal(rec.s) then set_batch_due(arg.id, rec, now, arg) end
return save_batch(arg.id, rec, now, shown, is_transition)
