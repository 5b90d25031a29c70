"""A pull from a lane in Redis, as Lua: the same as `ktqueue.fair.FairQueue.pull`; and what is foretold is kept."""

from __future__ import annotations

from ktqueue.lanes.accuracy import KEPT, KEPT_MS, LEAST_MS
from ktqueue.lanes.lua_lane import HELD, STATE
from ktqueue.lanes.lua_turns import TURNS

PULL = (
    TURNS
    + f"""
local LEAST_MS, KEPT, KEPT_MS, HELD = {LEAST_MS}, {KEPT}, {KEPT_MS}, '{HELD}'
"""
    + """
limit, now = tonumber(ARGV[2]), now_ms()
if ARGV[3] ~= '' then
  left, bounded = cjson.decode(ARGV[3]), true
  for _, more in pairs(left) do none_left = none_left + (more <= 0 and 1 or 0) end
end
local TAKEN_OUT = 8
local pulled, sums, by_class = {}, {}, {}
local function pull(priority, id, cost)
  pulled[#pulled + 1] = id
  local theirs = by_class[priority]
  if not theirs then
    theirs = {}
    by_class[priority], sums[priority] = theirs, 0
  end
  theirs[#theirs + 1] = id
  sums[priority] = sums[priority] + cost
end

-- Who is alone, in a class that nobody gets a turn between, gives all at once.
local function give_all(priority)
  local round = rounds[priority]
  local one, is_fresh = first_of(round)
  local most, tag, given = math.min(limit - #pulled, left[one[TENANT]] or limit), one[TAG], one[GIVEN]
  local stays = reads(priority, one, given + most)
  for at = given + 1, math.min(given + most, #one[READ]) do
    local id, cost = id_and_cost(one[READ][at])
    round.time = math.max(round.time, tag)
    tag = tag + cost / one[WEIGHT]
    pull(priority, id, cost)
  end
  serve(round, one, is_fresh, math.min(most, #one[READ] - given), tag, stays)
end

-- Many, in such a class, give about one each: it is quicker to take that out at once than to look first.
-- In one piece, for each job is a turn: made of the functions above it takes a seventh more.
local function give_each(priority)
  local round, ids, sum = rounds[priority], by_class[priority] or {}, sums[priority] or 0
  local fresh, served, all_served, time = round.fresh, round.served, round.all_served, round.time
  local at, start = round.at, queue(priority, '')
  while #pulled < limit do
    local one, other = fresh[at], served[1]
    if other and not (one and before(one, other)) then one = other end
    if not one then break end
    local key, tag = start .. one[TENANT], one[TAG]
    local member = redis.call('ZPOPMIN', key)[1]
    local stays = redis.call('EXISTS', key) == 1
    local space = string.find(member, ' ', 1, true)
    local id, cost = string.sub(member, 1, space - 1), tonumber(string.sub(member, space + 1))
    pulled[#pulled + 1] = id
    ids[#ids + 1] = id
    sum = sum + cost
    if tag > time then time = tag end
    one[TAG] = tag + cost / one[WEIGHT]
    if one == other then
      if stays then sink(served) else drop_first(served) end
    else
      at = at + 1
      all_served[#all_served + 1] = one
      if stays then push(served, one) end
    end
    one[TAKEN_OUT], one[WHOLE] = true, not stays
  end
  round.at, round.time, by_class[priority], sums[priority] = at, time, ids, sum
end

while #pulled < limit do
  local priority = choose()
  if not priority then break end
  local round = round_of(priority)
  local many = left_in(round)
  if all_calm and many == 1 and not (keyed and parts_of(priority, (first_of(round)))) then
    give_all(priority)
  elseif all_calm and not bounded and not keyed and #round.served == 0 and many >= limit - #pulled then
    give_each(priority)
  else
    local _, _, id, cost = give(priority)
    pull(priority, id, cost)
  end
end
local held = full
for _, round in pairs(rounds) do
  for _, one in ipairs(round.held) do
    if (left[one[TENANT]] or 1) <= 0 then held[#held + 1] = one[TENANT] end
  end
end
if #held > 0 then redis.call('HSET', HELD, model, cjson.encode(held)) else redis.call('HDEL', HELD, model) end
if #pulled == 0 then return pulled end
redis.call('HDEL', waits, unpack(pulled))
redis.call('HSET', fair, 'since_aged', since_aged, 'last_aged', last_aged)

-- Take out what a tenant gave; whether that was all it had.
local function take_given(priority, one)
  local tenant = one[TENANT]
  if not one[PARTS] then
    if one[TAKEN_OUT] then return one[WHOLE] end
    redis.call('ZREMRANGEBYRANK', queue(priority, tenant), 0, one[GIVEN] - 1)
    return one[WHOLE] and #one[READ] == one[GIVEN]
  end
  for _, part in ipairs(one.all) do
    if part[TAKEN] > 0 then redis.call('ZREMRANGEBYRANK', queue(priority, part[NAME]), 0, part[TAKEN] - 1) end
    if not part[MEMBER] and part[NAME] ~= tenant then redis.call('ZREM', keys, key_of(priority, tenant, part[NAME])) end
  end
  return not one[PARTS][1] and not one.full
end

for priority, ids in pairs(by_class) do
  local round = rounds[priority]
  redis.call('ZREM', due(priority), unpack(ids))
  redis.call('HINCRBY', fair, 'cost' .. priority, -sums[priority])
  redis.call('HSET', fair, 'time' .. priority, round.time)
  local stay_tags, leave, leave_tags = {}, {}, {}
  for _, one in ipairs(round.held) do
    one[TAG] = math.max(one[TAG], round.time)
    if one[GIVEN] == 0 then
      stay_tags[#stay_tags + 1] = one[TAG]
      stay_tags[#stay_tags + 1] = one[TENANT]
    end
  end
  for _, one in ipairs(round.all_served) do
    local tenant = one[TENANT]
    local left = take_given(priority, one)
    local tags = left and leave_tags or stay_tags
    tags[#tags + 1] = one[TAG]
    tags[#tags + 1] = tenant
    if left then leave[#leave + 1] = tenant end
  end
  if #stay_tags > 0 then redis.call('ZADD', turns(priority), unpack(stay_tags)) end
  if #leave > 0 then
    redis.call('ZREM', turns(priority), unpack(leave))
    redis.call('ZADD', paid(priority), unpack(leave_tags))
  end
  forget(priority)
end
local foretold = 'ktq:foretold:' .. model
if redis.call('EXISTS', foretold) == 1 then
  local told, errors = redis.call('HMGET', foretold, unpack(pulled)), 'ktq:errors:' .. model
  for _, each in ipairs(told) do
    if each then
      local wait_ms, at = string.match(each, '^(%d+) (%d+)$')
      local waited_ms = now - at
      if math.max(wait_ms, waited_ms) >= LEAST_MS then
        redis.call('LPUSH', errors, math.abs(wait_ms - waited_ms) / math.max(waited_ms, LEAST_MS))
      end
    end
  end
  redis.call('HDEL', foretold, unpack(pulled))
  redis.call('LTRIM', errors, 0, KEPT - 1)
  redis.call('PEXPIRE', errors, KEPT_MS)
end
return pulled
"""
)
"""``model, limit, {tenant or key: turns left, …}``, or '' if nobody is bounded; the ids in their order.

``limit`` is some thousands at most: Lua's stack holds no more. Who was passed over is noted.
"""

FORETELL = (
    STATE
    + f"""
local foretold = 'ktq:foretold:' .. model
if redis.call('HLEN', foretold) >= {KEPT} then redis.call('DEL', foretold) end
redis.call('HSET', foretold, ARGV[2], ARGV[3] .. ' ' .. string.format('%d', now_ms()))
redis.call('PEXPIRE', foretold, {KEPT_MS})
"""
)
"""``model, id, wait_ms``"""
