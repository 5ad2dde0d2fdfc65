local function is_leased(state) return state == 'dispatched' or state == 'running' end
