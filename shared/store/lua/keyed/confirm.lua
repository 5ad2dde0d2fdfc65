-- Writes nothing. With DURABILITY, its caller hears when the secret, which was drawn before, is where it must be.
--
-- KEYS[1]  the hash tag of the partition
-- Returns  1 if there is a secret, else 0
return redis.call('EXISTS', KEYS[1] .. 'keyed')
