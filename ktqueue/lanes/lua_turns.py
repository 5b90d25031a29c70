"""Whose turn it is in a lane in Redis, as Lua: the same as `ktqueue.turns.Turns` and `ktqueue.fair.FairQueue`."""

from __future__ import annotations

from ktqueue.fair import LOOK, TENANTS_ASKED
from ktqueue.lanes.accuracy import KEPT, KEPT_MS, LEAST_MS
from ktqueue.lanes.lua_lane import HELD, STATE, WEIGHTS
from ktqueue.rank import HIGHEST_PRIORITY
from ktqueue.turns import AGE_MS, AGED_EVERY

_TURNS = (
    STATE
    + f"""
local limit, now, guest = 0, 0, nil
-- How many turns tenants may have who are bounded, how many of those none, and whether there are any.
local left, none_left, bounded = {{}}, 0, false
local rounds = {{}}
local since_aged = tonumber(redis.call('HGET', fair, 'since_aged') or {AGED_EVERY - 1})
local last_aged = tonumber(redis.call('HGET', fair, 'last_aged') or 0)

local function before(one, other) return one[1] < other[1] or (one[1] == other[1] and one[2] < other[2]) end

-- A heap whose first has changed.
local function sink(heap)
  local at, size = 1, #heap
  while 2 * at <= size do
    local child = 2 * at
    if child < size and before(heap[child + 1], heap[child]) then child = child + 1 end
    if not before(heap[child], heap[at]) then return end
    heap[at], heap[child] = heap[child], heap[at]
    at = child
  end
end

local function drop_first(heap)
  heap[1] = heap[#heap]
  heap[#heap] = nil
  sink(heap)
end

local function push(heap, one)
  local at = #heap + 1
  heap[at] = one
  while at > 1 do
    local parent = math.floor(at / 2)
    if not before(heap[at], heap[parent]) then return end
    heap[at], heap[parent] = heap[parent], heap[at]
    at = parent
  end
end

local busy, calm = {{}}, {{}}

local function left_in(round) return #round.fresh + 1 - round.at + #round.served end

-- A tenant in a round: its tag, its name, its weight, what was read of its queue, how many of that it gave, and whether
-- that was all. Those who gave none yet are `fresh`, in order, from `at` on; those who did are `served`, a heap.
local TAG, TENANT, WEIGHT, READ, GIVEN, WHOLE = 1, 2, 3, 4, 5, 6

local function round_of(priority)
  local round = rounds[priority]
  if round then return round end
  local fresh = {{}}
  round = {{
    fresh = fresh, at = 1, served = {{}}, all_served = {{}}, held = {{}},
    time = time_of(priority), gone = {{}}, oldest = 0,
  }}
  rounds[priority] = round
  local found = redis.call('ZRANGE', turns(priority), 0, limit + none_left - 1, 'WITHSCORES')
  for at = 1, #found, 2 do fresh[#fresh + 1] = {{tonumber(found[at + 1]), found[at], 1, {{}}, 0, false}} end
  if guest and guest[1] == priority then
    local tag, here = tag_of(priority, guest[2])
    if not here then
      local at, one = #fresh + 1, {{tag, guest[2], 1, {{}}, 0, false}}
      while at > 1 and before(one, fresh[at - 1]) do at = at - 1 end
      table.insert(fresh, at, one)
    end
  end
  if #fresh > 0 and redis.call('EXISTS', '{WEIGHTS}') == 1 then
    local tenants = {{}}
    for at, one in ipairs(fresh) do tenants[at] = one[TENANT] end
    local weights = redis.call('HMGET', '{WEIGHTS}', unpack(tenants))
    for at, one in ipairs(fresh) do one[WEIGHT] = tonumber(weights[at] or 1) end
  end
  return round
end

local function first_of(round)
  local one, other = round.fresh[round.at], round.served[1]
  if one and not (other and before(other, one)) then return one, true end
  return other, false
end

-- Let the first in a round be one who may have a turn.
local function pass_over(round)
  local one, is_fresh = first_of(round)
  while one and (left[one[TENANT]] or 1) <= 0 do
    table.insert(round.held, one)
    if is_fresh then round.at = round.at + 1 else drop_first(round.served) end
    one, is_fresh = first_of(round)
  end
end

local function waits_in(priority)
  if bounded then pass_over(round_of(priority)) end
  if rounds[priority] then return left_in(rounds[priority]) > 0 end
  if busy[priority] == nil then
    busy[priority] = redis.call('EXISTS', turns(priority)) == 1 or (guest ~= nil and guest[1] == priority)
  end
  return busy[priority]
end

-- One that is not aged now will not be after some turns either.
local function aged(priority)
  if calm[priority] then return false end
  local round = rounds[priority]
  local at = round and round.oldest or 0
  while true do
    local oldest = redis.call('ZRANGE', due(priority), at, at, 'WITHSCORES')
    if not (oldest[1] and round and round.gone[oldest[1]]) then
      local is = oldest[1] and tonumber(oldest[2]) + {AGE_MS} * ({HIGHEST_PRIORITY} - priority) <= now
      calm[priority] = not is
      return is
    end
    at = at + 1
    round.oldest = at
  end
end

local top, all_calm = {HIGHEST_PRIORITY}, false

local function choose()
  while top >= 0 and not waits_in(top) do top = top - 1 end
  if top < 0 then return nil end
  if since_aged < {AGED_EVERY - 1} then
    since_aged = since_aged + 1
    return top
  end
  if all_calm then return top end
  local after = math.min(last_aged, top)
  for step = 1, top do
    local priority = after - step
    if priority < 0 then priority = priority + top end
    if aged(priority) and (not bounded or waits_in(priority)) then
      since_aged, last_aged = 0, priority
      return priority
    end
  end
  all_calm = true
  return top
end

-- Read on in a tenant's queue, ever more at once, until it is known whether it has an `index`-th job, from 0.
local function reads(priority, one, index)
  local members = one[READ]
  while index >= #members and not one[WHOLE] do
    local size = math.max(2, #members, index + 1 - #members)
    local more = redis.call('ZRANGE', queue(priority, one[TENANT]), #members, #members + size - 1)
    one[WHOLE] = #more < size
    for _, member in ipairs(more) do members[#members + 1] = member end
  end
  return members[index + 1]
end

local function parts_of(member)
  local space = string.find(member, ' ', 1, true)
  return string.sub(member, 1, space - 1), tonumber(string.sub(member, space + 1))
end

-- It gave so many more and is at this tag; it stays if it has more.
local function serve(round, one, is_fresh, given, tag, stays)
  if one[GIVEN] == 0 then table.insert(round.all_served, one) end
  one[GIVEN], one[TAG] = one[GIVEN] + given, tag
  if left[one[TENANT]] then left[one[TENANT]] = left[one[TENANT]] - given end
  if is_fresh then
    round.at = round.at + 1
    if stays then push(round.served, one) end
  elseif stays then
    sink(round.served)
  else
    drop_first(round.served)
  end
end

-- Whose turn, the number of the job in its queue, the job, its cost; no job where a guest has none left.
local function give(priority)
  local round = round_of(priority)
  local one, is_fresh = first_of(round)
  local tenant, index = one[TENANT], one[GIVEN]
  local member = reads(priority, one, index)
  if not member then return tenant, index end
  local id, cost = parts_of(member)
  if not all_calm then round.gone[id] = true end
  round.time = math.max(round.time, one[TAG])
  local stays = reads(priority, one, index + 1) or (guest and guest[1] == priority and guest[2] == tenant)
  serve(round, one, is_fresh, 1, one[TAG] + cost / one[WEIGHT], stays)
  return tenant, index, id, cost
end
"""
)

PULL = (
    _TURNS
    + f"""
local LEAST_MS, KEPT, KEPT_MS, HELD = {LEAST_MS}, {KEPT}, {KEPT_MS}, '{HELD}'
"""
    + """
limit, now = tonumber(ARGV[2]), now_ms()
if ARGV[3] ~= '' then
  left, bounded = cjson.decode(ARGV[3]), true
  for _, more in pairs(left) do none_left = none_left + (more <= 0 and 1 or 0) end
end
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
while #pulled < limit do
  local priority = choose()
  if not priority then break end
  local round = round_of(priority)
  if all_calm and left_in(round) == 1 then
    -- Who is alone, in a class that nobody gets a turn between, gives all at once.
    local one, is_fresh = first_of(round)
    local most, tag, given = math.min(limit - #pulled, left[one[TENANT]] or limit), one[TAG], one[GIVEN]
    local stays = reads(priority, one, given + most)
    for at = given + 1, math.min(given + most, #one[READ]) do
      local id, cost = parts_of(one[READ][at])
      round.time = math.max(round.time, tag)
      tag = tag + cost / one[WEIGHT]
      pull(priority, id, cost)
    end
    serve(round, one, is_fresh, math.min(most, #one[READ] - given), tag, stays)
  else
    local _, _, id, cost = give(priority)
    pull(priority, id, cost)
  end
end
local held = {}
for _, round in pairs(rounds) do
  for _, one in ipairs(round.held) do held[#held + 1] = one[TENANT] end
end
if #held > 0 then redis.call('HSET', HELD, model, cjson.encode(held)) else redis.call('HDEL', HELD, model) end
if #pulled == 0 then return pulled end
redis.call('HDEL', waits, unpack(pulled))
redis.call('HSET', fair, 'since_aged', since_aged, 'last_aged', last_aged)
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
    redis.call('ZREMRANGEBYRANK', queue(priority, tenant), 0, one[GIVEN] - 1)
    local left = one[WHOLE] and #one[READ] == one[GIVEN]
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
"""``model, limit, {tenant: turns left, …}``, or '' if nobody is bounded; the ids in their order.

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

AHEAD = (
    _TURNS
    + f"""
local id, tenant, priority, rank = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local own
if tenant == '' then
  local info = redis.call('HGET', waits, id)
  if not info then return false end
  local its_cost
  priority, its_cost, tenant = parse(info)
  own = redis.call('ZRANK', queue(priority, tenant), id .. ' ' .. its_cost)
else
  own = redis.call('ZCOUNT', queue(priority, tenant), '-inf', rank)
end
-- Lua itself writes only 14 digits.
local function below(tag) return '(' .. string.format('%.17g', tag) end
local its_tag = tag_of(priority, tenant)
local earlier = redis.call('ZCOUNT', turns(priority), '-inf', below(its_tag))
limit, now, guest = {LOOK}, now_ms(), {{priority, tenant}}
local held = {{}}
for _, name in ipairs(cjson.decode(redis.call('HGET', '{HELD}', model) or '[]')) do
  if name ~= tenant and not left[name] then
    held[#held + 1] = name
    left[name], none_left, bounded = 0, none_left + 1, true
  end
end
local jobs, cost = 0, 0
if own + earlier < limit then
  for _ = 1, limit do
    local class = choose()
    local theirs, index, theirs_id, more = give(class)
    if class == priority and theirs == tenant and index == own then return {{jobs, cost, own}} end
    jobs, cost = jobs + 1, cost + more
  end
end

local function total(class)
  return redis.call('ZCARD', due(class)), tonumber(redis.call('HGET', fair, 'cost' .. class) or 0)
end
local function free(class)
  local all, all_cost = total(class)
  local more = all
  for _, name in ipairs(held) do more = more - redis.call('ZCARD', queue(class, name)) end
  return more, all_cost * (more / math.max(1, all))
end
local here, their_cost = total(priority)
local each = their_cost / math.max(1, here)
local tag = its_tag + own * each / weight_of(tenant)
earlier = redis.call('ZCOUNT', turns(priority), '-inf', below(tag))
local found =
  redis.call('ZRANGEBYSCORE', turns(priority), '-inf', below(tag), 'WITHSCORES', 'LIMIT', 0, {TENANTS_ASKED})
local asked, others = 0, 0
for at = 1, #found, 2 do
  if found[at] ~= tenant and not left[found[at]] then
    local theirs = math.ceil((tag - tonumber(found[at + 1])) * weight_of(found[at]) / each)
    asked, others = asked + 1, others + math.min(redis.call('ZCARD', queue(priority, found[at])), theirs)
  end
end
if earlier > {TENANTS_ASKED} then others = math.floor(others * earlier / math.max(1, asked)) end
jobs = own + others
cost = jobs * each
for class = priority + 1, {HIGHEST_PRIORITY} do
  local more, more_cost = free(class)
  jobs, cost = jobs + more, cost + more_cost
end
return {{jobs, math.floor(cost), own}}
"""
)
"""``model, id, '', '', ''`` of a job that waits; ``model, '', tenant, priority, rank`` of one that would come.

The jobs and the cost ahead, and how many jobs of its tenant's class; false if the job does not wait.
"""
