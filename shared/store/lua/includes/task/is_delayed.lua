-- Whether a task has yet to start. The scripts that every task runs have the same condition in place: each function that a
-- script defines costs each of its runs something. Any way on from there draws another attempt, or has another number in z.
local function is_delayed(rec) return rec.T and rec.s == 'created' and rec.z == 0 and rec.a == 1 end
