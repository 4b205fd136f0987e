-- Find or found: joins every sighting of a call to a neighbourhood, in order, or founds one; all of it or nothing.
-- KEYS: founders, meta, one digest key a sighting, one record key a client.
-- ARGV: the caller's epoch, a fresh one, the newest founder it knows, that one's check, two radii, longest tail, seconds to live,
--       most founders, seconds after which they are forgotten, how many at once, queries at which a record is halved, sightings, clients,
--       then a sighting each: what the caller found (client, founder, channel, distance, siblings), and the packed record.
-- Returns {1, epoch, first, last, check, start of the tail, tail, matches}, or {0, epoch, first, last, check, whether to start over}
-- without having changed anything when the caller's copy is too old to decide with.
local founders, meta = KEYS[1], KEYS[2]
local epoch, known, check = ARGV[1], tonumber(ARGV[3]), ARGV[4]
local radii = {tonumber(ARGV[5]), tonumber(ARGV[6])}
local cap, ttl, most, seconds = tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10])
local at_once, halving, count, clients = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
local HEAD = 90 -- bytes before the embedding code; see packing.py

-- A record is: the check of the one before, its own check, and what was founded; the check seals both.
local function sealed(previous, facts)
  return string.sub(redis.sha1hex(previous .. facts), 1, 12)
end
local function sound(record)
  return #record >= HEAD and sealed(string.sub(record, 1, 12), string.sub(record, 25)) == string.sub(record, 13, 24)
end
local function record_of(sequence)
  local record = redis.call('HGET', founders, sequence)
  return record and sound(record) and record or nil
end

-- What is under our names and not ours is no index: a new one begins, and every replica notices by its epoch.
local state = redis.pcall('HMGET', meta, 'epoch', 'first', 'last', 'check')
local first, last = not state.err and tonumber(state[2]), not state.err and tonumber(state[3])
local held = redis.pcall('HLEN', founders)
local is_ours = first and last and state[1] and state[4] and type(held) == 'number'
if not (is_ours and first >= 1 and first <= last + 1 and last - first <= 2 * held + 1000 and (first + last) % 1 == 0) then
  if redis.call('EXISTS', founders, meta) > 0 then redis.call('UNLINK', founders, meta) end
  state, first, last = {ARGV[2], '', '', string.rep('\0', 12)}, 1, 0
  redis.call('HSET', meta, 'epoch', state[1], 'first', 1, 'last', 0, 'check', state[4])
end
local head = state[4]

local function behind(over)
  return {0, state[1], first, last, head, over}
end
if epoch ~= state[1] or known > last then return behind(1) end
if known == last then
  if check ~= head then return behind(1) end
elseif known >= first then
  local newest = record_of(known)
  if not newest or string.sub(newest, 13, 24) ~= check then return behind(1) end
end
local start = math.max(known + 1, first)
if last - start >= cap then return behind(0) end

local tail, fields = {}, {}
for sequence = start, last do fields[#fields + 1] = sequence end
if #fields > 0 then tail = redis.call('HMGET', founders, unpack(fields)) end
for at = 1, #fields do tail[at] = tail[at] and sound(tail[at]) and tail[at] end

-- Hamming distance, given up beyond the radius; codes are cut into words of 32 bits.
local band, bxor, rshift = bit.band, bit.bxor, bit.rshift
local function ones(x)
  x = x - band(rshift(x, 1), 0x55555555)
  x = band(x, 0x33333333) + band(rshift(x, 2), 0x33333333)
  x = band(x + rshift(x, 4), 0x0f0f0f0f)
  return band(x + rshift(x, 8) + rshift(x, 16) + rshift(x, 24), 0x3f)
end
local function words(code)
  local cut = {}
  for at = 1, #code, 4 do
    local a, b, c, d = string.byte(code, at, at + 3)
    cut[#cut + 1] = a + b * 256 + (c or 0) * 65536 + (d or 0) * 16777216
  end
  return cut
end
local function codes(record)
  local width = string.byte(record, HEAD)
  return {words(string.sub(record, 25, 32)), words(string.sub(record, HEAD + 1, HEAD + width))}
end
local function distance(a, b, radius)
  if #a == 0 or #a ~= #b then return nil end
  local sum = 0
  for at = 1, #a do
    sum = sum + ones(bxor(a[at], b[at]))
    if sum > radius then return nil end
  end
  return sum
end

local tail_codes = {}
local function in_tail(record)
  local own = codes(record)
  for at = 1, #tail do
    if tail[at] then
      tail_codes[at] = tail_codes[at] or codes(tail[at])
      for kind = 1, 2 do
        local bits = distance(own[kind], tail_codes[at][kind], radii[kind])
        if bits then return start + at - 1, kind, bits end
      end
    end
  end
end

local records = {}
for at = 1, clients do
  local record = redis.pcall('HMGET', KEYS[2 + count + at], 'queries', 'flagged')
  records[at] = {not record.err and tonumber(record[1]) or 0, not record.err and tonumber(record[2]) or 0}
end

local matches, homes, seen, founded, new = {}, {}, {}, {}, {}
local newest = last
for at = 1, count do
  local client, near, near_kind, near_bits, siblings, place = struct.unpack('>HdBHH', ARGV[14 + at])
  local from = place + siblings * 5
  local own = string.sub(ARGV[14 + at], from)
  local record, digest = records[client], string.sub(own, 33, 64)
  local home, kind, bits, facts = seen[digest], 3, 0, nil
  if not home then
    local value = redis.pcall('GET', KEYS[2 + at])
    if type(value) == 'string' and string.sub(value, 1, #epoch) == epoch then
      home = tonumber(string.sub(value, #epoch + 1))
      facts = home and home >= first and home <= last and record_of(home) or nil
      home = facts and home
    end
  end
  if not home and near > 0 then
    if near < first then return behind(0) end
    home, kind, bits = near, near_kind, near_bits
    facts = record_of(home)
    home = facts and home
  end
  if not home then
    home, kind, bits = in_tail(own)
    facts = home and tail[home - start + 1]
  end
  if not home then
    for sibling = 1, siblings do
      local earlier, sibling_kind, sibling_bits = struct.unpack('>HBH', ARGV[14 + at], place + (sibling - 1) * 5)
      if founded[earlier] then
        home, kind, bits = founded[earlier], sibling_kind, sibling_bits
        break
      end
    end
  end
  if not home then
    newest = newest + 1
    home, kind, bits = newest, 0, 0
    facts = string.sub(own, 25, 73) .. struct.pack('>I4I4', record[1], record[2]) .. string.sub(own, 82)
    local check = sealed(head, facts)
    head, facts = check, head .. check .. facts
    new[home], founded[at] = facts, home
  end
  facts = facts or new[home] or homes[home]
  seen[digest], homes[home] = home, facts
  matches[at] = {home, kind, bits, record[1], record[2], facts}
  local width = string.byte(own, HEAD)
  if kind == 0 or string.sub(facts, HEAD + 1 + string.byte(facts, HEAD)) ~= string.sub(own, HEAD + 1 + width) then
    local queries, flagged = record[1] + 1, record[2] + string.byte(own, 65)
    if queries >= halving then queries, flagged = math.floor(queries / 2), math.floor(flagged / 2) end
    records[client] = {queries, flagged}
  end
end

-- The first command that writes is one that a full Redis refuses: then nothing is written at all.
for sequence = last + 1, newest do
  redis.call('HSET', founders, sequence, new[sequence])
  tail[#tail + 1] = new[sequence]
end
-- A digest is a short cut of a day: its picture is found again by its codes, and one that nobody asks again costs no memory for long.
for at = 1, count do redis.call('SET', KEYS[2 + at], epoch .. matches[at][1], 'EX', math.min(ttl, 86400)) end
for at = 1, clients do
  local key = KEYS[2 + count + at]
  if type(redis.pcall('HSET', key, 'queries', records[at][1], 'flagged', records[at][2])) == 'table' then
    redis.call('DEL', key)
    redis.call('HSET', key, 'queries', records[at][1], 'flagged', records[at][2])
  end
  redis.call('EXPIRE', key, ttl)
end
redis.call('HSET', meta, 'first', first, 'last', newest, 'check', head)
local latest = record_of(newest)
local before = latest and struct.unpack('>d', latest, 82) - seconds or 0
for _ = 1, at_once do
  if first > newest then break end
  local oldest = record_of(first)
  if oldest and newest - first < most and struct.unpack('>d', oldest, 82) >= before then break end
  redis.call('HDEL', founders, first)
  first = first + 1
end
redis.call('HSET', meta, 'first', first)
return {1, epoch, first, newest, head, start, tail, matches}
