-- A child's registration at its batch, not yet made: a function that makes it and returns which registration of the child
-- it is; or nil and 'unknown' (there is no such batch of that owner), 'sealed' or 'full'. A child that is registered and was
-- not seen yet may be registered again; its earlier registrations do not count any more.
-- @include batch/children
-- @include task/terminal
-- @late set_batch_due batch/set_batch_due
local function registration(id, rec, child, owner, now, arg)
  if not rec or owner ~= (rec.o or '') then return nil, 'unknown' end
  local batch, place, known, sequence = rec.G, find_child(id, child)
  -- Of a child that was seen, this is another one: the first was removed meanwhile.
  local is_awaited = place and known == REGISTERED and place > batch.K
  if is_terminal(rec.s) or batch.S and not is_awaited then return nil, 'sealed' end
  if not place and batch.t >= arg.most or not is_awaited and batch.n >= 2 ^ 20 - 1 then return nil, 'full' end
  return function()
    if is_awaited then
      sequence = sequence + 1
      batch.M = math.min(batch.M, place - 1)
    else
      if place then count_child(batch, known, -1) else batch.t = batch.t + 1 end
      local is_first = batch.K == batch.n
      batch.n = batch.n + 1
      place, sequence = batch.n, 1
      if is_first then set_batch_due(id, rec, now, arg) end
    end
    set_child(id, child, place, REGISTERED, sequence)
    return sequence
  end
end
