-- A function: each run of a script would build a table anew.
local function is_terminal(state) return state == 'completed' or state == 'failed' or state == 'cancelled' end
