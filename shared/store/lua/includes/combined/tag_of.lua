-- The hash tag of the partition of a task id or a path.
-- @include generated/partition_tags
local function tag_of(name) return string.match(PARTITION_TAGS, string.sub(redis.sha1hex(name), 1, 1) .. '({%w+})') end

-- Steps that run together are mostly of one path.
local path_tags = {}
local function tag_of_path(path)
  local tag = path_tags[path] or tag_of(path)
  path_tags[path] = tag
  return tag
end
