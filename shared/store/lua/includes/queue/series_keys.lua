-- The keys of the series: what happened at an endpoint, by time. All begin with the hash tag of the path's partition.
--
--   <tag>s1:<path>, <tag>s10:<path>, <tag>s60:<path>
--                           list     rows of 1, 10 and 60 minutes, the latest last: packed arrays of {the minute in which it
--                                    begins, created, retried, cancelled, failed, completed, and at its end: waiting, holding
--                                    a slot, slots, since when the oldest one waits (ms; 0: not known), {bin, number that
--                                    waited so long, …}, {bin, number that ran so long, …}}. A span without tallies has none
--   <tag>sum:<path>         string   a row that is the sum of all that there ever were, while the path is in use
--   <tag>series             zset     the paths that have rows, by the hour of the last one
--   <tag>series_bytes       hash     how many bytes the rows of a path take, as of that hour
--
-- What the least used paths had is added up at the path `other` when all rows of a partition take too much room.
local SERIES_SPANS = { { 's1:', 1, 360 }, { 's10:', 10, 7 * 1440 }, { 's60:', 60, 90 * 1440 } }

local function sum_key(tag, path) return tag .. 'sum:' .. path end
