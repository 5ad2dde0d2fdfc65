-- Registers children at their batch, before they are created. A child that is registered and was not seen yet may be
-- registered again; its earlier registrations do not count any more.
--
-- KEYS[1]  the hash tag of the batch's partition
-- ARGV[1]  packed map: now, id, children {{child, owner}, …}, most (children of a batch), after (see
--          batch/upkeep)
-- Returns  {now, for each child: which registration of the child it is; or 'unknown' (there is no such batch of that
--          owner), 'sealed', 'full'}
-- @include batch/children
-- @include batch/load_batch
-- @include batch/set_batch_due
-- @include common/now_ms
-- @include task/terminal
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local rec = load_batch(arg.id)
local now, done, is_changed = now_ms(arg.now), {}, false
local owner, batch = rec and rec.o or '', rec and rec.G
for i, asked in ipairs(arg.children) do
  local child = asked[1]
  if not rec or asked[2] ~= owner then
    done[i] = 'unknown'
  else
    local place, known, sequence = find_child(arg.id, child)
    -- Of a child that was seen, this is another one: the first was removed meanwhile.
    local is_awaited = place and known == REGISTERED and place > batch.K
    if is_terminal(rec.s) or batch.S and not is_awaited then
      done[i] = 'sealed'
    elseif not place and batch.t >= arg.most or not is_awaited and batch.n >= 2 ^ 20 - 1 then
      done[i] = 'full'
    else
      if is_awaited then
        sequence = sequence + 1
        batch.M = math.min(batch.M, place - 1)
      else
        if place then count_child(batch, known, -1) else batch.t = batch.t + 1 end
        local is_first = batch.K == batch.n
        batch.n = batch.n + 1
        place, sequence = batch.n, 1
        if is_first then set_batch_due(arg.id, rec, now, arg) end
      end
      set_child(arg.id, child, place, REGISTERED, sequence)
      done[i], is_changed = sequence, true
    end
  end
end
if is_changed then
  rec.m, rec.v, rec.d = now, rec.v + 1, nil
  save_record(arg.id, rec)
end
return { now, done }
