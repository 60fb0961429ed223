-- Writes changes of vehicle_state, each only over an older version, and publishes those that it wrote.
--
-- ARGV: prefix, milliseconds that tombstones live, then groups of
--   'upsert', company (encoded for keys), number of rows, the message that publishes them all, two values a row:
--     the row: id, id encoded for keys, geo score or nil, bytes of its JSON in the message,
--              {'version', version, 'digest', digest, field, value ...}
--     its references: {field, value ...}
--   'delete', number of rows, one value a row: id, id encoded for keys, version
-- packed as MessagePack, what is listed side by side. Returns the number of rows written.
--
-- Lua hashes every byte of every string that it makes, so what is long is passed on as it came.
local call, decode = redis.call, cmsgpack.unpack
local prefix, ttl = ARGV[1], ARGV[2]
local vehicle, geo, delta = prefix .. ':vehicle:', prefix .. ':geo:', prefix .. ':delta:'
-- As call.rs writes it.
local before, after = '{"upsert":[', '],"remove":[]}'
local written = 0
local removed = {}

-- As key.rs does it.
local function encoded(company)
  if not company then return '%none' end
  return (company:gsub('[^A-Za-z0-9._:-]', function(byte) return ('%%%02X'):format(byte:byte()) end))
end

-- A live vehicle leaves its company, unless that is the one it comes to.
local function leave(key, id, version, comes_to)
  local company = encoded(call('HGET', key, 'company_id'))
  if company == comes_to then return end
  call('ZREM', geo .. company, id)
  local removes = removed[company] or {}
  removed[company] = removes
  removes[#removes + 1] = '{"vehicle_id":' .. cjson.encode(id) .. ',"version":' .. version .. '}'
end

local function upsert(at)
  local company, rows, message = ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3]
  local next_group = at + 4 + 2 * rows
  local members, froms, uptos, taken, read = {}, {}, {}, 0, #before
  for row = at + 4, next_group - 1, 2 do
    local id, name, score, bytes, values = decode(ARGV[row])
    local key = vehicle .. name
    local old = call('HMGET', key, 'version', 'digest')
    local version, standing = tonumber(values[2]), tonumber(old[1] or -1)
    -- A tombstone has no digest; of one version an upsert stands over a delete.
    if version > standing or (version == standing and not old[2]) then
      if old[2] == values[4] then
        -- The same references, the same fields present: only values have changed.
        call('HSET', key, unpack(values))
      else
        if old[2] then leave(key, id, values[2], company) end
        if old[1] then call('DEL', key) end
        call('HSET', key, unpack(values))
        call('HSET', key, unpack(decode(ARGV[row + 1])))
        if not score then call('ZREM', geo .. company, id) end
      end
      if score then
        local last = #members
        members[last + 1], members[last + 2] = score, id
      end
      taken = taken + 1
      froms[taken], uptos[taken] = read + 1, read + bytes
    end
    read = read + bytes + 1
  end
  if #members > 0 then call('ZADD', geo .. company, unpack(members)) end
  if taken > 0 then
    if taken < rows then
      local parts = {}
      for i = 1, taken do parts[i] = message:sub(froms[i], uptos[i]) end
      message = before .. table.concat(parts, ',') .. after
    end
    call('PUBLISH', delta .. company, message)
  end
  written = written + taken
  return next_group
end

local function delete(at)
  local rows = tonumber(ARGV[at + 1])
  for row = at + 2, at + 1 + rows do
    local id, name, version = decode(ARGV[row])
    local key = vehicle .. name
    local old = call('HMGET', key, 'version', 'digest')
    if tonumber(version) > tonumber(old[1] or -1) then
      if old[2] then leave(key, id, version, nil) end
      call('DEL', key)
      call('HSET', key, 'version', version, 'deleted', '1')
      call('PEXPIRE', key, ttl)
      written = written + 1
    end
  end
  return at + 2 + rows
end

local at = 3
while at <= #ARGV do
  if ARGV[at] == 'upsert' then at = upsert(at) else at = delete(at) end
end
for company, removes in pairs(removed) do
  call('PUBLISH', delta .. company, '{"upsert":[],"remove":[' .. table.concat(removes, ',') .. ']}')
end
return written
