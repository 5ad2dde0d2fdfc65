-- A backend that ends a task may take a moment until it has room again. The queue waits for no more than this.
local SETTLE_MS = 2000
