local TERMINAL = { completed = true, failed = true, cancelled = true }
