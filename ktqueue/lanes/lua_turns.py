"""Whose turn it is in a lane in Redis, as Lua: the same as `ktqueue.turns.Turns`. Scripts begin with it."""

from __future__ import annotations

from ktqueue.lanes.lua_lane import STATE, WEIGHTS
from ktqueue.rank import HIGHEST_PRIORITY
from ktqueue.turns import AGE_MS, AGED_EVERY

TURNS = (
    STATE
    + f"""
local limit, now, guest = 0, 0, nil
-- How many turns tenants and keys may have that are bounded, how many of those none, and whether there are any.
local left, none_left, bounded = {{}}, 0, false
local rounds = {{}}
local aging = redis.call('HMGET', fair, 'since_aged', 'last_aged')
local since_aged, last_aged = tonumber(aging[1] or {AGED_EVERY - 1}), tonumber(aging[2] or 0)
local keyed = redis.call('EXISTS', keys) == 1

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
-- Of a tenant with bounded keys: a heap of its queues, each by the job that it gives next; false of others, and true
-- until that was asked.
local TAG, TENANT, WEIGHT, READ, GIVEN, WHOLE, PARTS = 1, 2, 3, 4, 5, 6, 7
local NONE = {{}}

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
  for at = 1, #found, 2 do fresh[#fresh + 1] = {{tonumber(found[at + 1]), found[at], 1, NONE, 0, false, keyed}} end
  if guest and guest[1] == priority then
    local tag, here = tag_of(priority, guest[2])
    if not here then
      local at, one = #fresh + 1, {{tag, guest[2], 1, NONE, 0, false, keyed}}
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

-- Read on in a tenant's queue, ever more at once, until it is known whether it has an `index`-th job, from 0.
local function reads(priority, one, index)
  local members = one[READ]
  while index >= #members and not one[WHOLE] do
    local had = #members
    local size = math.max(2, had, index + 1 - had)
    local more = redis.call('ZRANGE', queue(priority, one[TENANT]), had, had + size - 1)
    one[WHOLE] = #more < size
    if had == 0 then
      members = more
      one[READ] = more
    else
      for at = 1, #more do members[had + at] = more[at] end
    end
  end
  return members[index + 1]
end

-- One of a tenant's queues: the rank of the job that it gives next, that job, the queue's name, how many it gave.
local RANK, MEMBER, NAME, TAKEN = 1, 2, 3, 4

local function look(priority, part)
  local found = redis.call('ZRANGE', queue(priority, part[NAME]), part[TAKEN], part[TAKEN], 'WITHSCORES')
  part[RANK], part[MEMBER] = tonumber(found[2]), found[1]
  return part[MEMBER]
end

-- The queues of a tenant by their next jobs; false where it has but its own.
local function parts_of(priority, one)
  if one[PARTS] ~= true then return one[PARTS] end
  local names = keys_of(priority, one[TENANT])
  if #names == 0 then
    one[PARTS] = false
    return false
  end
  one[PARTS], one.all, one.full = {{}}, {{}}, false
  table.insert(names, one[TENANT])
  for _, name in ipairs(names) do
    local part = {{0, '', name, 0}}
    if look(priority, part) then
      push(one[PARTS], part)
      table.insert(one.all, part)
    end
  end
  return one[PARTS]
end

-- The keys that were passed over.
local full = {{}}

-- The next job of a tenant with parts; none where only keys have jobs that have no turn left.
local function next_of(one)
  local parts = one[PARTS]
  while parts[1] and parts[1][NAME] ~= one[TENANT] and (left[parts[1][NAME]] or 1) <= 0 do
    table.insert(full, parts[1][NAME])
    one.full = true
    drop_first(parts)
  end
  return parts[1] and parts[1][MEMBER]
end

-- A tenant with parts gives its next job; whether it has more.
local function goes_on(priority, one)
  local parts = one[PARTS]
  local part = parts[1]
  part[TAKEN] = part[TAKEN] + 1
  if part[NAME] ~= one[TENANT] and left[part[NAME]] then left[part[NAME]] = left[part[NAME]] - 1 end
  if look(priority, part) then sink(parts) else drop_first(parts) end
  return parts[1] or one.full
end

local function is_guest(priority, one) return guest[1] == priority and guest[2] == one[TENANT] end

local function may(priority, one)
  if (left[one[TENANT]] or 1) <= 0 then return false end
  return not (one[PARTS] and parts_of(priority, one)) or (guest and is_guest(priority, one)) or next_of(one)
end

-- Let the first in a round be one who may have a turn.
local function pass_over(priority)
  local round = round_of(priority)
  local one, is_fresh = first_of(round)
  while one and not may(priority, one) do
    table.insert(round.held, one)
    if is_fresh then round.at = round.at + 1 else drop_first(round.served) end
    one, is_fresh = first_of(round)
  end
end

local function waits_in(priority)
  if bounded then pass_over(priority) end
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

local function id_and_cost(member)
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
  local in_parts, member = one[PARTS] and parts_of(priority, one), nil
  if in_parts then member = next_of(one) else member = reads(priority, one, index) end
  if not member then return tenant, index end
  local id, cost = id_and_cost(member)
  if not all_calm then round.gone[id] = true end
  round.time = math.max(round.time, one[TAG])
  local stays
  if in_parts then stays = goes_on(priority, one) else stays = reads(priority, one, index + 1) end
  stays = stays or (guest and is_guest(priority, one))
  serve(round, one, is_fresh, 1, one[TAG] + cost / one[WEIGHT], stays)
  return tenant, index, id, cost
end
"""
)
