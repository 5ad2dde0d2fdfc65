-- What the processes of the app agree on for the reconciler; one partition has it.
--
--   <tag>reconciler         hash     process: the one whose rounds they are, until: until when (ms);
--                                    unclaimed: there while events stay unclaimed
local function reconciler_key(tag) return tag .. 'reconciler' end
