-- SPDX-License-Identifier: Apache-2.0
-- Puts packets into context, by the rules of i2o.decode.conversation: which reply answers which
-- request, what classes devices have, which buffer of which request a piece of DMA belongs to.
-- Wireshark shows the packets once in order; what was found is kept by packet number.

C.MAX_OUTSTANDING = 65536
C.MAX_BUFFER = 65536
C.MAX_SEARCH = 1024
C.MAX_ALIKE = 64
C.MIN_FRAME = 12

local TRANSFER_COUNT = 20
local FEW = 8

local FIRST_CLASS_FUNCTION, FIRST_EXECUTIVE_FUNCTION = 0x20, 0xA0
local SHORT_KEY = {
  [FUNCTION.LAN_PACKET_SEND] = true,
  [FUNCTION.LAN_SDU_SEND] = true,
  [FUNCTION.LAN_RECEIVE_POST] = true,
}
local BULK = {
  [FUNCTION.BSA_BLOCK_READ] = true,
  [FUNCTION.BSA_BLOCK_WRITE] = true,
  [FUNCTION.BSA_BLOCK_WRITE_VERIFY] = true,
}
local LCT_FIRST_ENTRY, LCT_ENTRY_SIZE = 12, LAYOUTS["tables.lct_entry"][2]

--- A table that remembers the order in which its keys came.
local Ordered = {}
Ordered.__index = Ordered

function Ordered.new()
  local empty = { keys = {}, place = {}, values = {}, first = 1, last = 0, count = 0 }
  return setmetatable(empty, Ordered)
end

--- Put a value behind all others.
function Ordered:set(key, value)
  self:remove(key)
  self.last = self.last + 1
  self.keys[self.last], self.place[key], self.values[key] = key, self.last, value
  self.count = self.count + 1
  if self.last - self.first > 4 * self.count + 1000 then
    self:close_gaps()
  end
end

--- Put a value where its key is, or behind all others.
function Ordered:replace(key, value)
  if self.values[key] ~= nil then
    self.values[key] = value
  else
    self:set(key, value)
  end
end

function Ordered:remove(key)
  local place = self.place[key]
  if place then
    self.keys[place], self.place[key], self.values[key] = nil, nil, nil
    self.count = self.count - 1
  end
  while self.first <= self.last and self.keys[self.first] == nil do
    self.first = self.first + 1
  end
end

--- Move everything together, so that going through it takes no longer than its size.
function Ordered:close_gaps()
  local keys, last = {}, 0
  for at = self.first, self.last do
    local key = self.keys[at]
    if key ~= nil then
      last = last + 1
      keys[last], self.place[key] = key, last
    end
  end
  self.keys, self.first, self.last = keys, 1, last
end

--- Iterate over at most `limit` (key, value), the oldest key first, or the youngest.
function Ordered:each(limit, backwards)
  local at, step = self.first - 1, 1
  if backwards then
    at, step = self.last + 1, -1
  end
  local left = math.min(limit, self.count)
  return function()
    if left == 0 then
      return nil
    end
    left = left - 1
    repeat
      at = at + step
    until self.keys[at] ~= nil
    return self.keys[at], self.values[self.keys[at]]
  end
end

local iops, records

--- Forget everything: another capture is opened.
function C.reset()
  iops, records = {}, {}
end

C.reset()

local function iop_of(number)
  local iop = iops[number]
  if not iop then
    iop = { outstanding = Ordered.new(), registrations = Ordered.new(), by_mfa = Ordered.new(),
            classes = { [0] = 0 }, count = 0 }
    iops[number] = iop
  end
  return iop
end

--- Return what a frame has in common with its answer: route and contexts.
local function key_of(raw, code)
  if SHORT_KEY[code] then
    return B.sub(raw, 4, 8)
  end
  return B.sub(raw, 4, B.has(B.u8(raw, 1), 0x02) and 20 or 12)
end

local function swapped(key)
  local low, middle, high = key:byte(1, 3)
  return string.char(B.bits(middle, 4, 4) + high % 16 * 16, B.bits(high, 4, 4) + low % 16 * 16,
                     B.bits(low, 4, 4) + middle % 16 * 16) .. key:sub(4)
end

--- Return the frame, cut at its MessageSize, but not in its head.
function C.frame(record)
  local size = math.max(C.MIN_FRAME, 4 * record.size_words)
  return size < #record.raw and B.sub(record.raw, 0, size) or record.raw
end

--- Return the host memory that a request points to.
local function ranges_of(request)
  if not request.ranges then
    local chained = request.chained or {}
    request.ranges = S.host_ranges(C.frame(request), function(address, length)
      local data = chained[address]
      if data and #data >= length then
        return B.sub(data, 0, length)
      end
      return nil
    end)
  end
  return request.ranges
end

-- What waits under one key, the oldest in front: { first = 1, last = n, records by number }.

local function oldest(queue)
  return queue and queue[queue.first]
end

--- Return which of several requests alike is answered: the first that is about as many bytes as the
-- reply's transfer count, else the oldest.
local function fitting(queue, reply)
  local count = reply and B.u32(reply, TRANSFER_COUNT) or 0
  if count > 0 then
    for index = queue.first, math.min(queue.last, queue.first + C.MAX_ALIKE - 1) do
      local sum = 0
      for _, range in ipairs(ranges_of(queue[index])) do
        sum = sum + range.length
      end
      if sum == count then
        return index
      end
    end
  end
  return queue.first
end

--- Remove the outstanding request with a key; of several the one that the reply fits.
local function take(iop, key, reply)
  local queue = iop.outstanding.values[key]
  if not queue then
    return nil
  end
  iop.count = iop.count - 1
  local place = queue.first < queue.last and fitting(queue, reply) or queue.first
  local found = queue[place]
  for index = place, queue.first + 1, -1 do
    queue[index] = queue[index - 1]
  end
  queue[queue.first] = nil
  queue.first = queue.first + 1
  iop.outstanding:remove(key)
  if queue.first <= queue.last then
    iop.outstanding:set(key, queue)
  end
  return found
end

--- Remove one request from the middle of those with its key; returns whether it was there.
local function take_this(iop, key, request)
  local queue = iop.outstanding.values[key]
  for index = queue and queue.first or 1, queue and queue.last or 0 do
    if queue[index] == request then
      for place = index, queue.last do
        queue[place] = queue[place + 1]
      end
      queue.last = queue.last - 1
      iop.count = iop.count - 1
      if queue.last < queue.first then
        iop.outstanding:remove(key)
      end
      return true
    end
  end
  return false
end

--- Find the request of a FAIL reply, whose transaction context is not valid.
local function failed(iop, raw)
  if #raw >= 32 then
    local preserved = iop.by_mfa.values[B.u32(raw, 28)]
    if preserved and B.sub(preserved.raw, 4, 8) == B.sub(raw, 4, 8) then
      local key = key_of(preserved.raw, preserved.func)
      if take_this(iop, key, preserved) then
        return preserved
      end
      if preserved.func == FUNCTION.UTIL_EVENT_REGISTER then
        local registration = iop.registrations.values[key]
        iop.registrations:remove(key)
        return registration
      end
      -- one that is never answered but by FAIL, or one that was answered already
      return UNANSWERED[preserved.func] and preserved or nil
    end
  end
  local context, alike, several = B.sub(raw, 12, 4), nil, false
  for key in iop.outstanding:each(C.MAX_SEARCH) do
    if key:sub(1, 8) == B.sub(raw, 4, 8)
       and (key:sub(9) == context or context == "\0\0\0\0") then
      alike, several = key, alike ~= nil
    end
  end
  if alike and not several then
    return take(iop, alike)
  end
  return nil
end

local function learn_class(iop, record)
  local known = KINDS[1].functions[record.func]
  local class = known and known.class
  if class then
    iop.classes[record.target], record.class = class, class
  end
end

local function learn_request(iop, record)
  local raw, code = record.raw, record.func
  if record.mfa then
    local before = iop.by_mfa.values[record.mfa]
    if before then
      before.ranges = nil -- found again if it is asked for
    end
    iop.by_mfa:set(record.mfa, record)
    if iop.by_mfa.count > C.MAX_OUTSTANDING then
      iop.by_mfa:remove(iop.by_mfa.keys[iop.by_mfa.first])
    end
  end
  if record.class == nil and code >= FIRST_CLASS_FUNCTION and code < FIRST_EXECUTIVE_FUNCTION then
    learn_class(iop, record)
  end
  if UNANSWERED[code] then
    if code == FUNCTION.EXEC_OUTBOUND_INIT then
      iop.outstanding, iop.registrations, iop.count = Ordered.new(), Ordered.new(), 0
    end
    return
  end
  if #raw < 16 then
    return
  end
  local key = key_of(raw, code)
  if code == FUNCTION.UTIL_EVENT_REGISTER then -- answered once an event, not once a request
    iop.registrations:replace(key, record)
    if iop.registrations.count > C.MAX_OUTSTANDING then
      iop.registrations:remove(iop.registrations.keys[iop.registrations.first])
    end
    return
  end
  local queue = iop.outstanding.values[key]
  if queue then
    queue.last = queue.last + 1
    queue[queue.last] = record
  else
    iop.outstanding:set(key, { first = 1, last = 1, record })
  end
  iop.count = iop.count + 1
  if iop.count > C.MAX_OUTSTANDING then
    take(iop, iop.outstanding.keys[iop.outstanding.first])
  end
end

local function learn_reply(iop, record)
  local raw, code = record.raw, record.func
  if #raw < 16 then
    return
  end
  local request
  if B.has(record.flags, 0x20) then
    request = failed(iop, raw)
  else
    local key = key_of(raw, code)
    if code ~= FUNCTION.UTIL_EVENT_REGISTER and not iop.outstanding.values[key] then
      key = swapped(key)
    end
    if code == FUNCTION.UTIL_EVENT_REGISTER then
      request = iop.registrations.values[key] or iop.registrations.values[swapped(key)]
    elseif B.has(record.flags, 0x40) then
      request = take(iop, key, raw)
    else
      request = oldest(iop.outstanding.values[key])
    end
  end
  if request then
    record.request = request
    record.latency = (record.seconds - request.seconds) * 1e9 + record.ns - request.ns
    record.class = request.class
    request.ranges = nil -- found again if it is asked for
    request.replies = request.replies or {}
    request.replies[#request.replies + 1] = record.number
  end
end

-- DMA ---------------------------------------------------------------------------------------------

C.ranges_of = ranges_of

--- Return the ranges by address, nil if some overlap: then their order in the list matters.
local function by_address(ranges)
  local sorted = {}
  for index, range in ipairs(ranges) do
    sorted[index] = range
  end
  table.sort(sorted, function(one, other)
    return one.address < other.address
  end)
  for index = 2, #sorted do
    if sorted[index - 1].address + sorted[index - 1].length > sorted[index].address then
      return nil
    end
  end
  return sorted
end

--- Return (buffer, offset in it) of a bus address that a request points to, or nil.
local function place_of(request, address)
  local ranges, first = ranges_of(request), 1
  if #ranges > FEW and ranges.sorted == nil then
    ranges.sorted = by_address(ranges) or false
  end
  local last = #ranges
  if ranges.sorted then
    ranges = ranges.sorted
    while first < last do -- the last one that does not start behind the address
      local middle = math.floor((first + last + 1) / 2)
      if ranges[middle].address <= address then
        first = middle
      else
        last = middle - 1
      end
    end
  end
  for index = first, last do
    local range = ranges[index]
    if range.address <= address and address < range.address + range.length then
      return range.buffer, range.offset + address - range.address
    end
  end
  return nil
end

--- Return the latest unanswered request in a packet's MFA that points to its memory.
local function pointing_to(iop, record)
  local left = C.MAX_SEARCH
  for _, queue in iop.outstanding:each(C.MAX_SEARCH, true) do
    for index = queue.last, queue.first, -1 do
      left = left - 1
      if left < 0 then
        return nil
      end
      if queue[index].mfa == record.mfa and place_of(queue[index], record.address) then
        return queue[index]
      end
    end
  end
  return nil
end

local function request_of_dma(iop, record)
  if record.mfa then
    local request = iop.by_mfa.values[record.mfa]
    if request and place_of(request, record.address) then
      return request
    end
    -- an inbound frame may carry the next request before the last one is answered
    return pointing_to(iop, record)
  end
  for _, request in iop.by_mfa:each(C.MAX_SEARCH, true) do
    if place_of(request, record.address) then
      return request
    end
  end
  return nil
end

local function owner_of_reply(iop, record)
  local raw = record.raw
  if record.channel ~= "from_device" or #raw < 16 or B.u8(raw, 1) < 0x80 then
    return nil
  end
  local key = key_of(raw, B.u8(raw, 7))
  return oldest(iop.outstanding.values[key]) or oldest(iop.outstanding.values[swapped(key)])
end

local function learn_lct(iop, data)
  local at = LCT_FIRST_ENTRY
  while at <= #data - LCT_ENTRY_SIZE do
    local tid = B.bits(B.u32(data, at), 16, 12)
    if tid ~= 0 then
      iop.classes[tid] = B.u16(data, at + 12) % 4096
    end
    at = at + LCT_ENTRY_SIZE
  end
end

--- Put the pieces of a buffer together, from its start as far as they were captured.
local function collect(iop, record, request)
  local buffers = request.buffers or {}
  request.buffers = buffers
  if record.offset == 0 then
    buffers[record.buffer] = B.sub(record.raw, 0, C.MAX_BUFFER)
  else
    local known = buffers[record.buffer]
    if known and #known == record.offset and record.offset < C.MAX_BUFFER then
      buffers[record.buffer] = known .. B.sub(record.raw, 0, C.MAX_BUFFER - #known)
    end
  end
  if request.func == FUNCTION.EXEC_LCT_NOTIFY and record.buffer == 0 then
    learn_lct(iop, buffers[0] or "")
  end
end

local function learn_dma(iop, record)
  local request = request_of_dma(iop, record)
  if not request then
    request = owner_of_reply(iop, record)
    record.is_reply_frame = request ~= nil
  end
  if not request then
    return
  end
  record.request = request
  record.flags, record.size_words = request.flags, request.size_words
  record.target, record.initiator = request.target, request.initiator
  record.func, record.class = request.func, request.class
  if record.is_reply_frame then
    return
  end
  record.buffer, record.offset = place_of(request, record.address)
  if record.buffer == nil then
    return
  end
  if record.buffer < 0 then
    request.chained = request.chained or {}
    request.chained[record.address] = record.raw
    request.ranges = nil
  elseif not BULK[request.func] then
    collect(iop, record, request)
  end
end

--- Take the next packet.
-- @param record what is known of it: number, seconds, ns, iop, channel ("in", "out",
--   "to_device", "from_device"), raw, length, mfa or nil, address. Adds: kind, flags, size_words,
--   target, initiator, func, class, request, latency, replies, buffer, offset, is_reply_frame.
function C.feed(record)
  local known = records[record.number]
  if known then
    return known
  end
  records[record.number] = record
  local iop, raw = iop_of(record.iop), record.raw
  record.flags, record.size_words, record.target, record.initiator, record.func = 0, 0, 0, 0, 0
  if record.channel ~= "in" and record.channel ~= "out" then
    record.kind, record.offset = "dma", 0
    learn_dma(iop, record)
    C.finish(record)
    return record
  end
  record.kind = record.channel == "in" and "request" or "reply"
  if #raw < C.MIN_FRAME then
    record.is_short = true
    return record
  end
  record.flags, record.size_words = B.u8(raw, 1), B.u16(raw, 2)
  local route = B.u32(raw, 4)
  record.target, record.initiator = route % 4096, B.bits(route, 12, 12)
  record.func = B.bits(route, 24, 8)
  record.class = iop.classes[record.target]
  if record.kind == "request" then
    learn_request(iop, record)
  else
    learn_reply(iop, record)
    C.finish(record)
  end
  return record
end

--- Keep what showing a packet later will need of its request, as it is now.
function C.finish(record)
  local request = record.request
  if request and request.buffers then
    local kept = {}
    for buffer, data in pairs(request.buffers) do
      kept[buffer] = data
    end
    record.buffers = kept
  end
end
