-- What is in flight by a counter as it is kept, without what has lapsed. Nothing if it has only been reserved, or is none.
-- Costs by the instances whose share has lapsed since the last report.
-- @include requests/keys
local function counted(tag, field, raw, now)
  local is_read, kept = pcall(cmsgpack.unpack, raw)
  if not is_read or type(kept) ~= 'table' or #kept[2] == 0 then return end
  local named = kept[3][''] and kept[3][''][1] or 0
  local lapsed = redis.call('ZRANGEBYSCORE', requests_key(tag, 'ends', field), '-inf', now)
  if lapsed[1] then
    for _, share in ipairs(redis.call('HMGET', requests_key(tag, 'shares', field), unpack(lapsed))) do
      named = math.max(0, named - tonumber(share or 0))
    end
  end
  local sum = math.max(0, unnamed(kept, now)) + named
  for instance, share in pairs(kept[3]) do
    if instance ~= '' and share[2] > now then sum = sum + share[1] end
  end
  return sum, kept[4]
end
