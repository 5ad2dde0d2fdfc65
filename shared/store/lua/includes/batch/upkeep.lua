-- What follows from a step of a batch, packed within the argument `after`, since few steps need it: in ms again (when what
-- was begun is gone on with), grace (when it is checked whether a registered child exists), look (when it is checked how
-- the children are of which nothing was heard), idle (when a batch in which nothing happens is sealed), retention and
-- completion as in apply.lua; and texts {failed, cancelled, then} for the status.
local function upkeep(arg)
  if not arg.upkeep then arg.upkeep = cmsgpack.unpack(arg.after) end
  return arg.upkeep
end
