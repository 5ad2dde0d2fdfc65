-- Reports to a batch what became of its children. Each report may come again, late, and after a later one.
--
-- KEYS[1]  the hash tag of the batch's partition
-- ARGV[1]  packed map: now, id, reports {{child, number, what}, …}, after (see batch/upkeep). What:
--            'completed', 'failed', 'cancelled'   the attempt of that number ended so
--            'created'       it begins again, as the attempt of that number
--            'dropped'       it does not exist; the number is its registration, or what is known of its attempt. It counts
--                            only of a registration that is old enough, unless the create `is_refused`
--            'unreplayable'  it failed as the attempt of that number, and cannot begin again
--            'begun'         the Then task exists
-- Returns  {'applied', record, false, attempt, …} if the batch has another state, {'kept', record}, or {'unknown'}
-- @include batch/children
-- @include batch/load_batch
-- @include batch/save_batch
-- @include batch/upkeep
-- @include common/now_ms
-- @include task/terminal
-- @late settle batch/settle
local KNOWN = { created = OPEN, completed = COMPLETED, failed = FAILED, cancelled = CANCELLED }

local arg = cmsgpack.unpack(ARGV[1])
task_tag = KEYS[1]
local rec, raw = load_batch(arg.id)
if not rec then return { 'unknown' } end
local batch = rec.G
local shown = shown_of(batch)
-- Once the Then task has its list, or the batch has ended, only those change anything that are still awaited.
local is_closed = is_terminal(rec.s) or batch.d
local is_changed = false
local now = now_ms(arg.now)

local function take(child, number, what)
  if child == batch.d then
    if what == 'created' or batch.h or what == 'begun' and batch.e then return false end
    batch.e = true
    if is_terminal(what) then batch.h = what end
    return true
  end
  local place, known, sequence = find_child(arg.id, child)
  if not place then return false end
  local is_awaited = known == REGISTERED or known == OPEN or known == AGAIN
  local now_known = KNOWN[what]
  if what == 'dropped' then
    local is_old = place <= batch.M and now >= batch.Q + upkeep(arg).grace
    if not is_awaited or sequence ~= number or not (is_old or arg.is_refused) then return false end
    redis.call('ZREM', task_key('c:' .. arg.id), child)
    count_child(batch, known, -1)
    batch.t = batch.t - 1
    return true
  elseif what == 'unreplayable' then
    if known ~= AGAIN or sequence ~= number then return false end
    now_known = FAILED
  elseif is_closed and (not is_awaited or now_known == OPEN) then
    return false
  elseif known ~= REGISTERED and number <= sequence and not (known == OPEN and number == sequence) then
    return false
  elseif known == OPEN and now_known == OPEN and number == sequence then
    return false
  end
  count_child(batch, known, -1)
  count_child(batch, now_known, 1)
  set_child(arg.id, child, place, now_known, number)
  return true
end

for _, report in ipairs(arg.reports) do is_changed = take(unpack(report)) or is_changed end
if not is_changed then return { 'kept', raw } end
local may_settle = rec.s == 'created' or batch.S and ended_children(batch) == batch.t
return save_batch(arg.id, rec, now, shown, may_settle and settle(arg.id, rec, now, arg))
