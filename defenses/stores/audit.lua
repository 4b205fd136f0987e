-- Append chained records to the audit log and add them to their clients' summaries, if nobody else appended meanwhile.
-- KEYS: the log (a stream), summaries (a hash), clients by queries, clients by time (sorted sets), where a log goes that is none,
--       the newest record that was cut off (a hash).
-- ARGV: sequence number and link that the log has to end with, most clients, most records, records, then body and link of each,
--       then client, queries, flagged, near-duplicates, altered, first and last time of each client.
-- Returns {1} or, with nothing changed, {0, sequence number, link} of the record that the log ends with ('' for none).
local stream, summaries, busiest, latest, start = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[6]
local expected, count = tonumber(ARGV[1]), tonumber(ARGV[5])

if redis.call('TYPE', stream).ok ~= 'stream' and redis.call('EXISTS', stream) == 1 then
  redis.call('RENAME', stream, KEYS[5])
end
local last, link = 0, ''
local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
if newest then
  last, link = tonumber(string.match(newest[1], '^%d+')), newest[2][4] or ''
end
-- A stream takes no number that it has given before, also where somebody deleted that record: the gap stays, and a check names it.
if redis.call('EXISTS', stream) == 1 then
  local about = redis.call('XINFO', 'STREAM', stream)
  for at = 1, #about, 2 do
    if about[at] == 'last-generated-id' then last = math.max(last, tonumber(string.match(about[at + 1], '^%d+'))) end
  end
end
if last ~= expected or link ~= ARGV[2] then return {0, last, link} end

for at = 1, count do
  redis.call('XADD', stream, string.format('%.0f-0', last + at), 'body', ARGV[4 + 2 * at], 'link', ARGV[5 + 2 * at])
end
if last == 0 then redis.call('DEL', start) end

-- The cap: the oldest records go, and the link of the last of them stays, so that what is kept can be checked.
local surplus = redis.call('XLEN', stream) - tonumber(ARGV[4])
if surplus > 0 then
  local gone = redis.call('XRANGE', stream, '-', '+', 'COUNT', math.min(surplus, 512))
  local newest_gone = gone[#gone]
  if redis.call('TYPE', start).ok ~= 'hash' then redis.call('DEL', start) end
  redis.call('HSET', start, 'sequence', string.match(newest_gone[1], '^%d+'), 'link', newest_gone[2][4] or '')
  for _, record in ipairs(gone) do redis.call('XDEL', stream, record[1]) end
end

local function summarise()
  for at = 6 + 2 * count, #ARGV, 7 do
    local client, first_seen, last_seen = ARGV[at], ARGV[at + 5], ARGV[at + 6]
    local counts = {tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])}
    local before = redis.call('HGET', summaries, client)
    if before then
      local old = cjson.decode(before)
      for field = 1, 4 do counts[field] = counts[field] + old[field] end
      if tonumber(old[5]) < tonumber(first_seen) then first_seen = old[5] end
      if tonumber(old[6]) > tonumber(last_seen) then last_seen = old[6] end
    end
    redis.call('HSET', summaries, client, cjson.encode({counts[1], counts[2], counts[3], counts[4], first_seen, last_seen}))
    redis.call('ZADD', busiest, counts[1], client)
    redis.call('ZADD', latest, last_seen, client)
  end
  -- The cap: who was quiet longest goes first.
  local many = math.min(redis.call('ZCARD', latest) - tonumber(ARGV[3]), 128)
  if many > 0 then
    for _, client in ipairs(redis.call('ZPOPMIN', latest, many)) do
      redis.call('HDEL', summaries, client)
      redis.call('ZREM', busiest, client)
    end
  end
end
if not pcall(summarise) then
  redis.call('UNLINK', summaries, busiest, latest) -- nothing that we wrote: they begin again
  summarise()
end
return {1}
