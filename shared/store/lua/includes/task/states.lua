local STATES = { 'created', 'dispatched', 'running', 'completed', 'failed', 'cancelled' }
