-- The leases of attempts whose predecessors were silent for theirs; see double_lease.lua.
-- @include task/keys

-- When the lease ends of an attempt that has a longer one. The attempt gets it when it begins: when its backend has
-- accepted it, or reports before that. Many services report that they begin and are silent then, so no report shortens it;
-- the one that outlasts it returns the task to the backend's own lease.
local function lease_end(id, rec, now, begins)
  if begins then return now + rec.l * 2 ^ rec.L end
  local own, granted = now + rec.l, tonumber(redis.call('ZSCORE', due_key(), id) or 0)
  if granted > own then return granted end
  rec.L = nil
  return own
end
