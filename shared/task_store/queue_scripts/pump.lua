-- Hands free slots on.
--
-- Returns  {granted, ms}
return { hand_on(load()) }
