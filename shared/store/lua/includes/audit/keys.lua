-- What operators have done; one partition has it.
--
--   <tag>audit              stream   an entry for each action, written before it: k the operation id of the write, e a packed
--                                    map: at (ms), operator (absent: nobody knows the name), by, action, target, operation
--   <tag>audited            hash     by the entry's id, how many tasks or queues the action has changed; an entry that it does
--                                    not have is of an action that goes on, or of which nobody knows what came of it
local function audit_key(tag, name) return tag .. name end
