-- Removes finished tasks before the end of their retention, with all that Redis has of them. Of a task with blobs, what is
-- left names these only and shows in no list: its deadline sees to them. A batch is removed after its children.
--
-- KEYS[1]  the hash tag of their partition
-- ARGV[1]  packed map: now, ids, owner (absent: any), batch (absent, or only its children), blob_grace (ms, within which the
--          caller removes the blobs, or a batch's children)
-- Returns  for each id {'gone'}, {'blobs', what is left of its record} (the caller deletes them, and calls purge.lua),
--          {'batch'} (the caller removes its children, and calls purge.lua), {'unfinished'}, {'unreported'} (its batch does
--          not know its end yet), {'unknown'} (nothing changed)
-- @include common/now_ms
-- @include task/purge_task
-- @include task/record
-- @include task/set_due
-- @include task/terminal
local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local now = now_ms(arg.now)

local function erase(id)
  local rec = load_record(id)
  if not rec or rec.Z or arg.owner and arg.owner ~= rec.o or arg.batch and arg.batch ~= rec.B then
    return { 'unknown' }
  end
  if not is_terminal(rec.s) or rec.G and rec.G.J then return { 'unfinished' } end
  if rec.B and not arg.batch then
    local report = table.concat({ rec.B, id, rec.a, rec.s }, ' ')
    if redis.call('ZSCORE', task_key('ends'), report) then return { 'unreported' } end
  end
  if not rec.g and not rec.G then
    purge_task(id, rec)
    return { 'gone' }
  end
  local left = rec.G and { n = rec.G.n, t = 0, c = 0, f = 0, x = 0, r = 0, K = 0, M = 0, Q = 0, g = rec.G.g }
  local rest = {
    s = rec.s, p = rec.p, x = '', a = rec.a, f = 0, n = 0, w = false, l = rec.l, v = rec.v + 1, k = 0, c = rec.c, m = now,
    q = rec.q, h = '', o = rec.o, B = rec.B, G = left, g = rec.g, Z = true,
    b = rec.b and rec.b[3] and rec.b or nil, r = rec.r and rec.r[3] and rec.r or nil,
  }
  rec.G = nil -- its children stay, to be removed
  purge_task(id, rec)
  local raw = save_record(id, rest, true)
  set_due(id, now + arg.blob_grace)
  return left and { 'batch' } or { 'blobs', raw }
end

local done = {}
for i, id in ipairs(arg.ids) do done[i] = erase(id) end
return done
