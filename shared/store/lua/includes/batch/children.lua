-- What a batch knows of its children: of each one's registration, and how it ended.
--
--   <tag>c:<id>   zset   the children of a batch. A score has three numbers: the child's place in the order of registration
--                        (20 bits), what is known of it (3 bits), and a sequence number (30 bits)
--
--   registered   it may exist; the sequence counts its registrations
--   open         it was replayed; the sequence is its attempt
--   completed, failed, cancelled   so it ended; the sequence is the attempt that ended
--   again        it failed, and is to be replayed; the sequence is the attempt that failed
--
-- A later attempt is later news, and of the same attempt an end is. So reports may come twice, late and in any order.
-- @include task/keys
local PLACE, SEQUENCE = 2 ^ 33, 2 ^ 30
local REGISTERED, OPEN, COMPLETED, FAILED, CANCELLED, AGAIN = 0, 1, 2, 3, 4, 5

-- The child's place, what is known of it, and the sequence number; nil if the batch does not know it.
local function parse_score(score)
  score = tonumber(score)
  return math.floor(score / PLACE), math.floor(score / SEQUENCE) % 8, score % SEQUENCE
end

local function find_child(id, child)
  local score = redis.call('ZSCORE', task_key('c:' .. id), child)
  if score then return parse_score(score) end
end

local function set_child(id, child, place, known, sequence)
  redis.call('ZADD', task_key('c:' .. id), string.format('%d', (place * 8 + known) * SEQUENCE + sequence), child)
end

-- Entries of at most `limit` children behind a place, up to another one: {child, score, …}.
local function children_behind(id, place, limit, last)
  local to = last and '(' .. string.format('%d', (last + 1) * PLACE) or '+inf'
  local from = string.format('%d', (place + 1) * PLACE)
  return redis.call('ZRANGEBYSCORE', task_key('c:' .. id), from, to, 'WITHSCORES', 'LIMIT', 0, limit)
end

-- Adds to the number of children of which this is known.
local function count_child(batch, known, by)
  if known == COMPLETED then batch.c = batch.c + by end
  if known == FAILED then batch.f = batch.f + by end
  if known == CANCELLED then batch.x = batch.x + by end
  if known == AGAIN then batch.r = batch.r + by end
end

local function ended_children(batch) return batch.c + batch.f + batch.x end
