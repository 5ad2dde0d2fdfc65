-- A function: each run of a script would build a table anew.
local function all_states() return { 'created', 'dispatched', 'running', 'completed', 'failed', 'cancelled' } end
