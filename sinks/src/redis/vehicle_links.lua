-- Writes changes of vehicle_links, each only over an older version.
--
-- ARGV: prefix, milliseconds that tombstones live, then rows of MessagePack values side by side:
--   id encoded for keys, whether it is deleted, {'version', version, field, value ...}
-- Returns the number of rows written.
local call, decode = redis.call, cmsgpack.unpack
local links, ttl = ARGV[1] .. ':links:', ARGV[2]
local written = 0
for row = 3, #ARGV do
  local name, deleted, values = decode(ARGV[row])
  local key = links .. name
  local old = call('HMGET', key, 'version', 'deleted')
  local version, standing = tonumber(values[2]), tonumber(old[1] or -1)
  -- Of one version, an upsert stands over a delete.
  if version > standing or (version == standing and old[2] and not deleted) then
    if old[1] then call('DEL', key) end
    call('HSET', key, unpack(values))
    if deleted then
      call('HSET', key, 'deleted', '1')
      call('PEXPIRE', key, ttl)
    end
    written = written + 1
  end
end
return written
