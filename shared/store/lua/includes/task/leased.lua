local LEASED = { dispatched = true, running = true }
