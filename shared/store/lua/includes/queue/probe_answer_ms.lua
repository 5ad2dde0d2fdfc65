-- How long the answer to a probe is awaited before the next one: refusals come at once.
local PROBE_ANSWER_MS = 1000
