-- Takes a step of a task that may end its queue entry, or that shows that the backend accepted it; and claims at once the
-- entries that get a slot by it. For a server that has all partitions.
--
-- KEYS     of two slots of a cluster, so that several servers refuse before it begins
-- ARGV     for each step: the hash tag of the task's partition, ARGV[1] and ARGV[2] of task/apply, and a packed map:
--          claim (ms, see queue/keys.lua), window (ms, see task/apply), and of an entry that was accepted: path, cap,
--          entry, owner
-- Returns  for each step {what task/apply returns, {{granted entries}, ms} or false if the entry goes on, {what task/apply
--          returns for the claim of each}}, or its error
--          A replay is answered as the first time, but for what others have done since. If task/apply itself refused, a
--          replay cannot be told from a first time: the deadline finds the tasks that the first time had claimed.
-- @include combined/each_step
-- @include combined/tag_of
-- @include queue/accept_entry
-- @include queue/release_entry
-- @function apply_step task/apply
-- @include task/service_time
-- @include task/terminal

-- Of all entries that are granted: a table costs time, and one that grows as it is filled costs more.
local grant_claim = { claim = true }

local function claim_entry(entry, claim, step, then_)
  local id, attempt = string.match(entry, '^(.*)%.(%d+)$')
  -- Its record has this operation's id, which would be taken for a replay.
  if id == step.id then return { 'state' } end
  claim.id, claim.attempt, claim.now, claim.op, claim.window = id, tonumber(attempt), step.now, step.op, then_.window
  return apply_step(tag_of(id), claim)
end

local replies = each_step(4, function(tag, packed_step, data, packed_then)
  local step, then_ = cmsgpack.unpack(packed_step), cmsgpack.unpack(packed_then)
  -- One moment for all of it.
  step.now = now_ms(step.now)
  then_.now = step.now
  local applied = apply_step(tag, step, data)
  local queued
  local is_first_time = not applied.replay
  if then_.entry then
    if not is_first_time then then_.waited = nil end
    queued = accept_entry(tag_of_path(then_.path), then_)
  elseif applied[1] == 'applied' and is_terminal(applied.rec.s) or applied[6] == 'freed' then
    local rec = applied.rec
    local attempt, path = rec.d or rec.a, rec.p
    if type(attempt) == 'table' then attempt, path = attempt[1], attempt[2] end
    then_.path, then_.entry, then_.owner = path, step.id .. '.' .. attempt, rec.o or ''
    then_.served = service_time(rec)
    if rec.T then then_.later = true end
    -- An end that another report may take back is counted when it takes effect. One that expired says nothing of its backend.
    if is_first_time and is_terminal(rec.s) and rec.w and step.reason ~= 'expired' then
      then_.ended = rec.s
      -- An answer that is the result is no acceptance.
      local is_first_try = rec.f == 0 and not rec.R and not rec.U
      if step.actor == 'dispatcher' and rec.s == 'completed' and is_first_try then
        then_.waited = rec.c + rec.D - (rec.q or rec.c)
      end
    end
    queued = release_entry(tag_of_path(path), then_, is_first_time)
  end
  if not queued then return { applied, false, {} } end
  local claimed = {}
  for i, entry in ipairs(queued[1]) do claimed[i] = claim_entry(entry, grant_claim, step, then_) end
  if not is_first_time then
    -- The entries that the first time granted are claimed, and nobody has heard of it.
    for _, entry in ipairs(redis.call('ZRANGE', queued.held, 0, -1)) do
      local again = claim_entry(entry, { claim = true, allowed_from = {} }, step, then_)
      if again.replay then
        table.insert(queued[1], entry)
        claimed[#claimed + 1] = again
      end
    end
  end
  return { applied, queued, claimed }
end)
write_queues()
return replies
