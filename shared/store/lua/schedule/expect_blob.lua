-- Has a blob deleted, unless a schedule has it by then. Before it is written: what nobody takes is not left behind.
--
-- KEYS[1]  the hash tag of the partition of the owner whose schedule is to have it
-- ARGV     now (0: the server's clock), the blob, in how many ms
-- @include common/now_ms
-- @include schedule/schedule
task_tag = KEYS[1]
discard_blob(ARGV[2], now_ms(tonumber(ARGV[1])) + tonumber(ARGV[3]))
