"""What runs before a job of a lane in Redis, as Lua: the same as `ktqueue.fair.FairQueue.ahead`."""

from __future__ import annotations

from ktqueue.fair import LOOK, TENANTS_ASKED
from ktqueue.lanes.lua_lane import HELD
from ktqueue.lanes.lua_turns import TURNS
from ktqueue.rank import HIGHEST_PRIORITY

AHEAD = (
    TURNS
    + f"""
local id, tenant, priority, rank, its_queue = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local its_member
if tenant == '' then
  local info = redis.call('HGET', waits, id)
  if not info then return false end
  local its_cost
  priority, its_cost, tenant, its_queue = parse(info)
  its_member = id .. ' ' .. its_cost
  rank = redis.call('ZSCORE', queue(priority, its_queue), its_member)
end
-- Lua itself writes only 14 digits.
local function below(tag) return '(' .. string.format('%.17g', tag) end
local its_tag = tag_of(priority, tenant)
local earlier = redis.call('ZCOUNT', turns(priority), '-inf', below(its_tag))
limit, now, guest = {LOOK}, now_ms(), {{priority, tenant}}
local held = {{}}
for _, name in ipairs(cjson.decode(redis.call('HGET', '{HELD}', model) or '[]')) do
  if name ~= tenant and name ~= its_queue and not left[name] then
    held[#held + 1] = name
    left[name], none_left, bounded = 0, none_left + 1, true
  end
end

-- How many jobs of a queue go before it.
local function ahead_in(name)
  local its = queue(priority, name)
  if not its_member then return redis.call('ZCOUNT', its, '-inf', rank) end
  if name == its_queue then return redis.call('ZRANK', its, its_member) end
  -- Of those of the same rank, which may be many, the smaller go first.
  local low = redis.call('ZCOUNT', its, '-inf', '(' .. rank)
  local high = low + redis.call('ZCOUNT', its, rank, rank)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if redis.call('ZRANGE', its, middle, middle)[1] < its_member then low = middle + 1 else high = middle end
  end
  return low
end

local own, its_keys = ahead_in(tenant), 0
for _, name in ipairs(keys_of(priority, tenant)) do
  local there = ahead_in(name)
  if not left[name] then own = own + there end
  if name == its_queue then its_keys = there end
end
local jobs, cost = 0, 0
if own + earlier < limit then
  for _ = 1, limit do
    local class = choose()
    local theirs, index, theirs_id, more = give(class)
    if class == priority and theirs == tenant and index == own then return {{jobs, cost, own, its_keys}} end
    jobs, cost = jobs + 1, cost + more
  end
end

local function total(class)
  return redis.call('ZCARD', due(class)), tonumber(redis.call('HGET', fair, 'cost' .. class) or 0)
end
local function free(class)
  local all, all_cost = total(class)
  local more, held_back = all, {{}}
  for _, name in ipairs(held) do
    held_back[name] = true
    for _, key in ipairs(keys_of(class, name)) do held_back[key] = true end
  end
  for name in pairs(held_back) do more = more - redis.call('ZCARD', queue(class, name)) end
  return more, all_cost * (more / math.max(1, all))
end
local function jobs_of(name)
  local all = redis.call('ZCARD', queue(priority, name))
  for _, key in ipairs(keys_of(priority, name)) do
    if not left[key] then all = all + redis.call('ZCARD', queue(priority, key)) end
  end
  return all
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
    asked, others = asked + 1, others + math.min(jobs_of(found[at]), theirs)
  end
end
if earlier > {TENANTS_ASKED} then others = math.floor(others * earlier / math.max(1, asked)) end
jobs = own + others
cost = jobs * each
for class = priority + 1, {HIGHEST_PRIORITY} do
  local more, more_cost = free(class)
  jobs, cost = jobs + more, cost + more_cost
end
return {{jobs, math.floor(cost), own, its_keys}}
"""
)
"""``model, id, '', '', '', ''`` of a job that waits; ``model, '', tenant, priority, rank, queue`` of one to come.

The jobs and the cost ahead, and how many jobs of its tenant's class and of its key's; false if the job does not wait.
"""
