-- The rival that was not built: find or found by multi-index hashing over plain bucket keys, one sighting a call.
-- KEYS: the founders' codes (a hash), then a bucket a probe: every band of a code, and every band with one bit flipped; the unflipped
-- bucket of each band comes first, `bands` of them. ARGV: the code, radius, bands. A bucket is a text of sequence numbers, 4 bytes each.
local founders, code, radius, bands = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local band, bxor, rshift = bit.band, bit.bxor, bit.rshift
local function ones(x)
  x = x - band(rshift(x, 1), 0x55555555)
  x = band(x, 0x33333333) + band(rshift(x, 2), 0x33333333)
  x = band(x + rshift(x, 4), 0x0f0f0f0f)
  return band(x + rshift(x, 8) + rshift(x, 16) + rshift(x, 24), 0x3f)
end
local function words(text)
  local cut = {}
  for at = 1, #text, 4 do cut[#cut + 1] = struct.unpack('>I4', text, at) end
  return cut
end

local candidates, seen = {}, {}
for at = 2, #KEYS do
  local bucket = redis.call('GET', KEYS[at])
  if bucket then
    for place = 1, #bucket, 4 do
      local sequence = struct.unpack('>I4', bucket, place)
      if not seen[sequence] then
        seen[sequence] = true
        candidates[#candidates + 1] = sequence
      end
    end
  end
end
table.sort(candidates)
local own = words(code)
for start = 1, #candidates, 1000 do
  local some = {}
  for at = start, math.min(start + 999, #candidates) do some[#some + 1] = candidates[at] end
  for at, other in ipairs(redis.call('HMGET', founders, unpack(some))) do
    local theirs, sum = words(other), 0
    for word = 1, #own do
      sum = sum + ones(bxor(own[word], theirs[word]))
      if sum > radius then break end
    end
    if sum <= radius then return {some[at], sum, #candidates} end
  end
end
local sequence = redis.call('HLEN', founders) + 1
redis.call('HSET', founders, sequence, code)
for at = 2, bands + 1 do redis.call('APPEND', KEYS[at], struct.pack('>I4', sequence)) end
return {sequence, -1, #candidates}
