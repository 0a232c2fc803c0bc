-- SPDX-License-Identifier: Apache-2.0
-- Messages of endpoints (link type USER2): the header, the names of the peer and of the next hop,
-- the payload; and which end belongs to which send. The same words as i2o.decode.message_text.

local MAX_SENDS = 16384
local BYTES_SHOWN, PARAMETER_SHOWN = 64, 32
local WORD = 4294967296
local KIND = MESSAGE.kinds
local FIELDS, PRESENT = MESSAGE.fields, MESSAGE.present
local OPTIONAL = { tag = true, ignore = true, cq_data = true, peer_address = true,
                   sequence = true }
local BIT_OF = { tag = "tag", ignore = "ignore", cq_data = "cq_data", peer_address = "peer",
                 sequence = "sequence" }
local HIDDEN = { version = true, present = true, peer_size = true, hop_size = true }

local VALUES_OF = { message_kind = "Kind", endpoint_type = "EndpointType",
                    event_code = "EventCode" }

--- Return a number of 64 bits as 0x and hexadecimal digits, without zeros in front.
local function hex64(number)
  if number.high > 0 then
    return string.format("0x%x%08x", number.high, number.low)
  end
  return string.format("0x%x", number.low)
end

--- Return a number of 64 bits in decimal, as exactly as Lua has it.
local function dec64(number)
  return B.dec(number.high * WORD + number.low)
end

local function is_zero(number)
  return number.high == 0 and number.low == 0
end

--- Return the names of flags, A|B, with what has no name as a number.
local function flags_text(flags, left_out)
  local names, high, low = {}, flags.high, flags.low
  local members = {}
  for _, member in ipairs(VALUES.Flag[2]) do
    members[#members + 1] = member
  end
  table.sort(members, function(one, other)
    return one[1] < other[1]
  end)
  for _, member in ipairs(members) do
    local value, name = member[1], member[2]
    local is_set
    if value >= WORD then
      is_set = B.has(high, value / WORD)
      high = is_set and high - math.floor(value / WORD) or high
    else
      is_set = B.has(low, value)
      low = is_set and low - value or low
    end
    if is_set and not (left_out and left_out[name]) then
      names[#names + 1] = name
    end
  end
  if high > 0 or low > 0 then
    names[#names + 1] = hex64({ high = high, low = low })
  end
  return table.concat(names, "|")
end

local NOT_SAID = {}
for _, name in ipairs(MESSAGE.not_said) do
  NOT_SAID[name] = true
end

local function error_text(code)
  return MESSAGE.errors[code] or "error " .. B.dec(code)
end

local function number64(raw, name)
  local at = FIELDS[name][2]
  return { low = B.u32(raw, at), high = B.u32(raw, at + 4) }
end

--- Return a text for one line: what could be a command for somebody becomes "?".
local function printable(text)
  return (text:gsub("[%c\127]", "?"))
end

--- Take a packet apart; of what is none, only `problem`.
function M.parse(raw)
  local record = { raw = raw }
  if #raw < MESSAGE.size then
    record.problem = #raw .. " bytes are no header of " .. MESSAGE.size
    return record
  end
  local version = B.u8(raw, FIELDS.version[2])
  if version ~= MESSAGE.version then
    record.problem = "a packet of version " .. version .. ": expected " .. MESSAGE.version
    return record
  end
  local peer_size, hop_size = B.u8(raw, FIELDS.peer_size[2]), B.u8(raw, FIELDS.hop_size[2])
  if MESSAGE.size + peer_size + hop_size > #raw then
    record.problem = "the packet ends within the name of the peer"
    return record
  end
  record.kind = B.u8(raw, FIELDS.message_kind[2])
  record.event = B.u8(raw, FIELDS.event_code[2])
  record.present = B.u16(raw, FIELDS.present[2])
  record.err = B.u32(raw, FIELDS.err[2])
  for _, name in ipairs({ "op_flags", "tag", "ignore", "cq_data", "peer_address", "length",
                          "sequence" }) do
    if not OPTIONAL[name] or B.has(record.present, PRESENT[BIT_OF[name]]) then
      record[name] = number64(raw, name)
    end
  end
  record.peer = B.sub(raw, MESSAGE.size, peer_size)
  record.hop = B.sub(raw, MESSAGE.size + peer_size, hop_size)
  record.payload_at = MESSAGE.size + peer_size + hop_size
  return record
end

--- Return what happened, in libfabric's words.
function M.name(record)
  if record.problem then
    return "message"
  elseif record.kind == KIND.EVENT then
    return MESSAGE.events[record.event] or "event_" .. record.event
  end
  local name = MESSAGE.names[record.kind]
  if not name then
    return "kind_" .. record.kind
  end
  return B.has(record.op_flags.low, MESSAGE.tagged) and "t" .. name or name
end

local function is_end(record)
  return record.kind == KIND.SENT or record.kind == KIND.SEND_FAILED
end

--- Return in, out or nil, seen from the endpoint.
function M.direction(record)
  if record.kind == KIND.SEND or is_end(record) then
    return "out"
  elseif record.kind == KIND.RECEIVED or record.kind == KIND.RECEIVE_FAILED
    or record.kind == KIND.PEEKED then
    return "in"
  end
  return nil
end

local function event_text(record)
  local text = printable(record.peer)
  local payload = B.sub(record.raw, record.payload_at, #record.raw)
  if #payload > 0 then
    local words
    if MESSAGE.events[record.event] == "state" then
      words = printable(payload)
    elseif B.text(payload) then
      words = 'parameter "' .. B.sub(B.text(payload), 0, PARAMETER_SHOWN) .. '"'
    else
      words = "parameter " .. B.hex_bytes(B.sub(payload, 0, PARAMETER_SHOWN))
        .. (#payload > PARAMETER_SHOWN and "..." or "")
    end
    text = text ~= "" and text .. ": " .. words or words
  end
  return text
end

--- Return what a line says behind the name.
function M.info(record)
  if record.problem then
    return "! " .. record.problem
  end
  local text
  if record.kind == KIND.EVENT then
    text = event_text(record)
  else
    local parts = {}
    if record.tag then
      local ignored = record.ignore and not is_zero(record.ignore)
      parts[1] = "tag " .. hex64(record.tag)
        .. (ignored and " ignoring " .. hex64(record.ignore) or "")
    end
    if not is_end(record) then
      local is_one = record.length.high == 0 and record.length.low == 1
      parts[#parts + 1] = dec64(record.length) .. (is_one and " byte" or " bytes")
    end
    text = table.concat(parts, ", ")
    local way = M.direction(record) == "out" and "to" or "from"
    if record.peer ~= "" then
      text = text .. " " .. way .. " " .. printable(record.peer)
    elseif record.peer_address then
      text = text .. " " .. way .. " fi_addr " .. hex64(record.peer_address)
    end
    if record.hop ~= "" then
      text = text .. " via " .. printable(record.hop)
    end
    local more = {}
    if text ~= "" then
      more[1] = text
    end
    if record.cq_data then
      more[#more + 1] = "data " .. hex64(record.cq_data)
    end
    if record.sequence then
      more[#more + 1] = "number " .. dec64(record.sequence)
    end
    local flags = flags_text(record.op_flags, NOT_SAID)
    if flags ~= "" then
      more[#more + 1] = flags
    end
    text = table.concat(more, ", ")
  end
  if record.err > 0 then
    text = text .. " ! " .. error_text(record.err)
  end
  return (text:gsub("^ +", ""))
end

local function node_of(record, name)
  local row = FIELDS[name]
  local size = row[4] / 8
  local node = { name = name, label = row[6], raw = record.raw, at = row[2], size = size,
                 meaning = "" }
  if row[4] > 32 then
    local number = number64(record.raw, name)
    node.value, node.high = number.low, number.high
    if name == "op_flags" then
      node.meaning = flags_text(number)
    end
  else
    node.value = B.number(record.raw, row[2], size)
    if name == "err" and node.value > 0 then
      node.meaning = error_text(node.value)
      node.expert, node.expert_text = "status", node.meaning
    elseif VALUES_OF[name] then
      node.meaning = N.names_text(VALUES_OF[name], node.value)
    end
  end
  return node
end

local function is_meant(record, name)
  if HIDDEN[name] then
    return false
  elseif OPTIONAL[name] then
    return record[name] ~= nil
  elseif name == "event_code" then
    return record.kind == KIND.EVENT
  elseif name == "message_kind" or name == "length" then
    return true
  end
  local number = B.number(record.raw, FIELDS[name][2], math.min(6, FIELDS[name][4] / 8))
  return number ~= 0 or (record[name] ~= nil and name == "op_flags" and record[name].high ~= 0)
end

--- Return the header, the names and the payload as nodes.
function M.nodes(record)
  if record.problem then
    return { N.problem(record.problem, record.raw, 0) }
  end
  local nodes = {}
  for _, name in ipairs(MESSAGE.order) do
    if is_meant(record, name) then
      nodes[#nodes + 1] = node_of(record, name)
    end
  end
  local at = MESSAGE.size
  for _, name in ipairs({ "peer", "hop" }) do
    local text = record[name]
    if text ~= "" then
      nodes[#nodes + 1] = { name = name, raw = record.raw, at = at, size = #text,
                            value = printable(text), meaning = "" }
      at = at + #text
    end
  end
  if not MESSAGE.names[record.kind] and record.kind ~= KIND.EVENT then
    nodes[#nodes + 1] = N.problem("kind " .. record.kind .. " is not known here", record.raw, 1)
  end
  local size = #record.raw - record.payload_at
  if size > 0 then
    local shown = B.sub(record.raw, record.payload_at, math.min(size, BYTES_SHOWN))
    nodes[#nodes + 1] = N.bytes("payload", record.raw, record.payload_at, size,
                                B.text(shown) or "")
  end
  return nodes
end

-- Which end belongs to which send -----------------------------------------------------------------

local sends, order, first, last, found, replies

function M.reset()
  sends, order, first, last, found, replies = {}, {}, 1, 0, {}, {}
end
M.reset()

--- Note a packet the first time it is seen.
-- @param packet {number, seconds, ns, endpoint, id}
-- @return {number, latency} of the send that it ends, nil if it ends none; and, for a send, the
--   number of the packet that ends it, as far as it is known.
function M.feed(record, packet)
  local number = packet.number
  if found[number] == nil then
    found[number] = false
    local key = packet.id and packet.endpoint .. ":" .. packet.id
    if key and record.kind == KIND.SEND then
      sends[key] = packet
      last = last + 1
      order[last] = { key, packet }
      if last - first >= MAX_SENDS then
        local oldest = order[first]
        order[first], first = nil, first + 1
        if sends[oldest[1]] == oldest[2] then
          sends[oldest[1]] = nil
        end
      end
    elseif key and is_end(record) and sends[key] then
      local send = sends[key]
      sends[key] = nil
      local latency = (packet.seconds - send.seconds) * 1e9 + packet.ns - send.ns
      found[number] = { number = send.number, latency = latency }
      replies[send.number] = number
    end
  end
  return found[number] or nil, replies[number]
end
