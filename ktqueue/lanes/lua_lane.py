"""A lane in Redis as Lua: what is put into it, taken out of it, and made of what has ended. Each call is one script.

The same as `ktqueue.priority_class` and `ktqueue.lanes.pace.Service` have it. Every script has the lane's model first.
Numbers that must stay exact go to Redis as numbers: Lua itself writes only 14 digits.
"""

from __future__ import annotations

from ktqueue.lanes.pace import FORGOTTEN, LOOK_BACK_MS, RUNS_KEPT, SERVICE_MS, SPAN_S, SPANS

WEIGHTS = "ktq:weights"
HELD = "ktq:held"

STATE = f"""
local model = ARGV[1]
local waits, fair = 'ktq:waits:' .. model, 'ktq:fair:' .. model
local function due(priority) return 'ktq:due:' .. model .. ':' .. priority end
local function turns(priority) return 'ktq:turns:' .. model .. ':' .. priority end
local function paid(priority) return 'ktq:paid:' .. model .. ':' .. priority end
local starts = {{}}
local function queue(priority, name)
  local start = starts[priority]
  if not start then
    start = 'ktq:queue:' .. model .. ':' .. priority .. ':'
    starts[priority] = start
  end
  return start .. name
end
local keys = 'ktq:keys:' .. model
local function key_of(priority, tenant, name) return priority .. ' ' .. tenant .. ' ' .. name end

-- The names of a tenant's queues of a class that are of bounded keys.
local function keys_of(priority, tenant)
  local start = key_of(priority, tenant, '')
  -- '!' is the next character after the blank at the end.
  local found = redis.call('ZRANGEBYLEX', keys, '[' .. start, '(' .. key_of(priority, tenant .. '!', ''))
  for at, each in ipairs(found) do found[at] = string.sub(each, #start + 1) end
  return found
end

-- A job's class, cost and tenant, and the name of its queue: its key, if that is bounded, or its tenant.
local function parse(info)
  local priority, cost, tenant, name = string.match(info, '^(%d) (%d+) (%S+) ?(.*)$')
  return tonumber(priority), tonumber(cost), tenant, name == '' and tenant or name
end
local function time_of(priority) return tonumber(redis.call('HGET', fair, 'time' .. priority) or 0) end
local function weight_of(tenant) return tonumber(redis.call('HGET', '{WEIGHTS}', tenant) or 1) end
local function now_ms()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

local function tag_of(priority, tenant)
  local tag = redis.call('ZSCORE', turns(priority), tenant)
  if tag then return tonumber(tag), true end
  local time = time_of(priority)
  return math.max(time, tonumber(redis.call('ZSCORE', paid(priority), tenant) or time)), false
end

local function forget(priority)
  local time = time_of(priority)
  if redis.call('EXISTS', turns(priority)) == 0 then
    local last = redis.call('ZRANGE', paid(priority), -1, -1, 'WITHSCORES')
    if last[2] then redis.call('HSET', fair, 'time' .. priority, math.max(time, tonumber(last[2]))) end
    redis.call('DEL', paid(priority))
  else
    redis.call('ZREMRANGEBYSCORE', paid(priority), '-inf', time)
  end
end

-- Let a tenant pay so much more than its jobs were taken to cost.
local function pay(tenant, priority, more)
  local tag, here = tag_of(priority, tenant)
  redis.call('ZADD', here and turns(priority) or paid(priority), tag + more / weight_of(tenant), tenant)
  if not here then forget(priority) end
end

local function take(id, info)
  local priority, cost, tenant, name = parse(info)
  redis.call('HDEL', waits, id)
  redis.call('ZREM', queue(priority, name), id .. ' ' .. cost)
  redis.call('ZREM', due(priority), id)
  redis.call('HINCRBY', fair, 'cost' .. priority, -cost)
  if redis.call('EXISTS', queue(priority, name)) == 1 then return end
  if name ~= tenant then redis.call('ZREM', keys, key_of(priority, tenant, name)) end
  if redis.call('EXISTS', queue(priority, tenant)) == 0 and #keys_of(priority, tenant) == 0 then
    redis.call('ZADD', paid(priority), tag_of(priority, tenant), tenant)
    redis.call('ZREM', turns(priority), tenant)
    forget(priority)
  end
end
"""

ADD = (
    STATE
    + """
local function info_of(entry)
  local _, _, _, priority, cost, tenant, name = unpack(entry)
  return priority .. ' ' .. cost .. ' ' .. tenant .. (name == tenant and '' or ' ' .. name)
end

local function same(entry, info)
  local id, rank, due_at, priority, cost, _, name = unpack(entry)
  return info == info_of(entry)
    and tonumber(redis.call('ZSCORE', queue(priority, name), id .. ' ' .. cost)) == rank
    and tonumber(redis.call('ZSCORE', due(priority), id)) == due_at
end

-- What is new is put in with as few commands as there are sorted sets to put it into.
local sets, infos, costs, new = {}, {}, {}, {}

local function put_in()
  for key, members in pairs(sets) do redis.call('ZADD', key, unpack(members)) end
  if #infos > 0 then redis.call('HSET', waits, unpack(infos)) end
  for priority, cost in pairs(costs) do redis.call('HINCRBY', fair, 'cost' .. priority, cost) end
  sets, infos, costs = {}, {}, {}
end

local function keep(key, score, member)
  local members = sets[key]
  if not members then
    members = {}
    sets[key] = members
  end
  members[#members + 1] = score
  members[#members + 1] = member
end

local entries, ids = cjson.decode(ARGV[3]), {}
for at, entry in ipairs(entries) do ids[at] = entry[1] end
for at, info in ipairs(redis.call('HMGET', waits, unpack(ids))) do
  local entry = entries[at]
  local id, rank, due_at, priority, cost, tenant, name = unpack(entry)
  if new[id] then
    put_in()
    info = redis.call('HGET', waits, id)
  end
  if info and not same(entry, info) then
    put_in()
    take(id, info)
    info = false
  end
  if not info then
    local theirs = queue(priority, name)
    if not sets[theirs] then
      local tag, here = tag_of(priority, tenant)
      if not here then
        redis.call('ZADD', turns(priority), tag, tenant)
        redis.call('ZREM', paid(priority), tenant)
      end
      if name ~= tenant then redis.call('ZADD', keys, 0, key_of(priority, tenant, name)) end
    end
    keep(theirs, rank, id .. ' ' .. cost)
    keep(due(priority), due_at, id)
    infos[#infos + 1] = id
    infos[#infos + 1] = info_of(entry)
    new[id] = true
    costs[priority] = (costs[priority] or 0) + cost
  end
end
put_in()
return redis.call('SET', 'ktq:bell:' .. model, 1, 'NX', 'PX', ARGV[2])
"""
)
"""``model, bell_ms, [[id, rank, due_at, priority, cost, tenant, queue], …]``; whether the bell is to be rung.

Some thousands at most: Lua's stack holds no more.
"""

REMOVE = (
    STATE
    + """
local info = redis.call('HGET', waits, ARGV[2])
if info then take(ARGV[2], info) end
"""
)
"""``model, id``"""

PAY = STATE + "for _, each in ipairs(cjson.decode(ARGV[2])) do pay(unpack(each)) end"
"""``model, [[tenant, priority, cost], …]``"""

COUNT_FINISHED = (
    STATE
    + f"""
local jobs, work, run_ms, quickest = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[6])
local now, waited = now_ms(), redis.call('HLEN', waits) > 0
local span, finished = math.floor(now / {1000 * SPAN_S}), 'ktq:finished:' .. model
if redis.call('HINCRBY', finished, string.format('%d', span), jobs) == jobs then
  for _, old in ipairs(redis.call('HKEYS', finished)) do
    if tonumber(old) <= span - {SPANS} then redis.call('HDEL', finished, old) end
  end
end
redis.call('EXPIRE', finished, {SPAN_S * (SPANS + 1)})

for _, each in ipairs(cjson.decode(ARGV[5])) do pay(unpack(each)) end

local service = 'ktq:service:' .. model
local told = redis.call('HMGET', service, 'at', 'waited', 'work', 'ms', 'run_work', 'run_ms', 'quickest')
local done, ms = tonumber(told[3] or 0), tonumber(told[4] or 0)
if told[2] == '1' and waited then
  local passed = math.max(0, now - told[1])
  local kept = math.exp(-passed / {LOOK_BACK_MS})
  done, ms = done * kept + work, ms * kept + passed
end
local runs_kept = math.pow({RUNS_KEPT}, jobs)
local before = tonumber(told[7] or 0) * math.pow({FORGOTTEN}, jobs)
if quickest == 0 or (before > 0 and before < quickest) then quickest = before end
redis.call('HSET', service, 'quickest', quickest, 'at', now, 'waited', waited and 1 or 0, 'work', done, 'ms', ms,
  'run_work', tonumber(told[5] or 0) * runs_kept + work, 'run_ms', tonumber(told[6] or 0) * runs_kept + run_ms)
redis.call('PEXPIRE', service, {SERVICE_MS})
return {{waited and 1 or 0, string.format('%.17g', quickest)}}
"""
)
"""``model, jobs, work, run_ms, [[tenant, priority, cost beyond the estimates], …], ms each of the quickest``.

Whether jobs wait, and the ms each of the quickest of late.
"""
