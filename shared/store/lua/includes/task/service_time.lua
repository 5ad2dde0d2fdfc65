-- How long the backend took for a task that it completed, in ms; nil for others.
local function service_time(rec) return rec.s == 'completed' and rec.D and rec.m - rec.c - rec.D or nil end
