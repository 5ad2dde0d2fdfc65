-- A step of a task by which its turn is over, or known to be taken by the backend. Whom that brings a slot is claimed
-- at once.
--
-- Words    the tag of the task's partition; ARGV[1] and ARGV[2] as of move; a packed map: claim (ms, as of the queue's
--          scripts), window (ms within which who has claimed a task records what the backend said), and of a turn that
--          was taken: path, cap, turn, owner
-- Returns  {what move returns, {{granted turns}, ms} or false where the turn goes on, {what move returns of the claim
--          of each}}
--          A replay is answered as the first time, but for what others have done since. Where move itself refused, a
--          replay cannot be told from a first time: whom that had claimed is found by the deadline.

local function claim(turn, from, arg, then_)
  local id, attempt = string.match(turn, '^(.*)%.(%d+)$')
  -- Its record has this operation's id, which move would take for a replay.
  if id == arg.id then return { 'state' } end
  return move({ tag_of(id) }, { {
    id = id, attempt = tonumber(attempt), now = arg.now, op = arg.op, who = 'dispatcher',
    from = from, has_body = true, to = 'dispatched', due_in = then_.window, fetch = true,
  } })
end

-- How long the backend took for a task that it completed.
local function served(rec) return rec.s == 'completed' and rec.D and rec.m - rec.c - rec.D or nil end

return each(4, function(tag, packed_change, data, packed_then)
  local arg, then_ = cmsgpack.unpack(packed_change), cmsgpack.unpack(packed_then)
  -- One moment for all of it.
  arg.now = now_ms(arg.now)
  then_.now = arg.now
  local moved = move({ tag }, { arg, data })
  local queued
  if then_.turn then
    queued = accepted({ tag_of_path(then_.path) }, { then_ })
  elseif moved[1] == 'moved' then
    local rec = moved.rec
    local attempt, path = rec.d, rec.p
    if type(attempt) == 'table' then attempt, path = attempt[1], attempt[2] end
    then_.path, then_.turn, then_.owner, then_.served = path, arg.id .. '.' .. attempt, rec.o or '', served(rec)
    queued = leave({ tag_of_path(path) }, { then_ })
  end
  if not queued then return { moved, false, {} } end
  local claimed = {}
  for i, turn in ipairs(queued[1]) do claimed[i] = claim(turn, { 'created' }, arg, then_) end
  if moved.replay then
    -- What the first time was handed on is claimed, and nobody has heard of it.
    for _, turn in ipairs(redis.call('ZRANGE', queued.held, 0, -1)) do
      local again = claim(turn, {}, arg, then_)
      if again.replay then
        table.insert(queued[1], turn)
        claimed[#claimed + 1] = again
      end
    end
  end
  return { moved, queued, claimed }
end)
