-- SPDX-License-Identifier: Apache-2.0
-- The protocol as Wireshark sees it: fields, expert infos, columns, the tree.

local proto = Proto("i2o", "Intelligent I/O")

local pf = {}

local UINTS = { { 8, "uint8" }, { 16, "uint16" }, { 32, "uint32" }, { 64, "uint64" } }
local SINTS = { { 8, "int8" }, { 16, "int16" }, { 32, "int32" }, { 64, "int64" } }

local function make_field(name, kind, width, label, text, values_name)
  local abbreviation = "i2o." .. name
  if kind == "text" then
    return ProtoField.string(abbreviation, label, base.ASCII, text)
  elseif kind == "number" then
    return ProtoField.relative_time(abbreviation, label, text)
  elseif kind == "bytes" then
    return ProtoField.bytes(abbreviation, label, base.NONE, text)
  end
  for _, size in ipairs(kind == "sint" and SINTS or UINTS) do
    if width <= size[1] then
      local strings
      if values_name and size[1] < 64 then
        strings = {}
        for _, member in ipairs(VALUES[values_name][2]) do
          strings[member[1]] = strings[member[1]] or member[2]
        end
      end
      local display = (kind == "uint" and N.is_hex(name)) and base.HEX or base.DEC
      return ProtoField[size[2]](abbreviation, label, display, strings, nil, text)
    end
  end
  error("field " .. name .. " of " .. width .. " bits")
end

for name, known in pairs(NAMES) do
  local values = known[5] and VALUES[known[5]][1] == "numbers" and known[5] or nil
  pf[name] = make_field(name, known[1], known[2], known[3], known[4], values)
end
for alias, name in pairs(ALIASES) do
  local known = NAMES[name]
  pf[alias] = make_field(alias, known[1], known[2], known[3], "the same as i2o." .. name)
end
local ALIASES_OF = {}
for alias, name in pairs(ALIASES) do
  ALIASES_OF[name] = ALIASES_OF[name] or {}
  table.insert(ALIASES_OF[name], alias)
end
pf.request_in = ProtoField.framenum("i2o.request_in", "Request in", base.NONE, frametype.REQUEST)
pf.reply_in = ProtoField.framenum("i2o.reply_in", "Reply in", base.NONE, frametype.RESPONSE)
proto.fields = pf

local pe = {
  short = ProtoExpert.new("i2o.short", "Frame is too short", expert.group.MALFORMED,
                          expert.severity.ERROR),
  malformed = ProtoExpert.new("i2o.malformed", "Malformed", expert.group.MALFORMED,
                              expert.severity.ERROR),
  status = ProtoExpert.new("i2o.error_status", "Error status", expert.group.RESPONSE_CODE,
                           expert.severity.WARN),
  fail = ProtoExpert.new("i2o.failed", "FAIL: the request was not delivered",
                         expert.group.RESPONSE_CODE, expert.severity.ERROR),
  unknown = ProtoExpert.new("i2o.unknown_function", "Unknown function", expert.group.UNDECODED,
                            expert.severity.NOTE),
  orphan = ProtoExpert.new("i2o.no_request", "Reply without a request", expert.group.SEQUENCE,
                           expert.severity.NOTE),
  swapped = ProtoExpert.new("i2o.swapped_tids", "TIDs are exchanged in the reply",
                            expert.group.PROTOCOL, expert.severity.NOTE),
}
local experts = {}
for _, expert_info in pairs(pe) do
  experts[#experts + 1] = expert_info
end
proto.experts = experts

-- Wireshark has these only while it builds a tree. It always does, but `tshark -2` without -R or -Y
-- does not in its first pass: then directions come from elsewhere and all IOPs look like one.
local interface_name = Field.new("frame.interface_name")
local packet_id = Field.new("frame.packet_id")
local time_epoch = Field.new("frame.time_epoch")

local function generated(tree, field, value, text)
  local item = tree:add(field, value)
  if text then
    item:set_text(text)
  end
  item:set_generated(true)
end

local function hidden(tree, field, value)
  tree:add(field, value):set_hidden(true)
end

-- Showing nodes -----------------------------------------------------------------------------------

local BYTES_SHOWN = 24

--- Return a value as it is printed.
local function value_text(node)
  local value = node.value
  local known = NAMES[node.name]
  if type(value) == "string" then
    if known[1] == "text" then
      return value
    end
    local more = #value > BYTES_SHOWN and "... (" .. #value .. " bytes)" or ""
    return B.hex_bytes(B.sub(value, 0, BYTES_SHOWN)) .. more
  end
  if node.high and node.high > 0 then
    return string.format("0x%x%08x", node.high, value)
  end
  if value >= 0 and N.is_hex(node.name) then
    local width = node.width or 8 * (node.size or 4)
    return B.hex(value, math.ceil(math.min(width, 64) / 4))
  end
  return B.dec(value)
end

--- Return the bits of a field among those of its bytes: .... 0000 0001 0000 = .
local function bits_text(node)
  local total = 8 * node.size
  local parts = {}
  for bit = total - 1, 0, -1 do
    local inside = bit >= node.bit and bit < node.bit + node.width
    parts[#parts + 1] = inside and B.dec(B.bits(node.value, bit - node.bit, 1)) or "."
    if bit % 4 == 0 and bit > 0 then
      parts[#parts + 1] = " "
    end
  end
  return table.concat(parts) .. " = "
end

--- Return the range of a node in its packet, nil if it has no place there.
local function range_of(node, tvbs)
  local tvb = node.raw and tvbs[node.raw]
  if not tvb or not node.at or node.at >= tvb:len() then
    return nil
  end
  local size = math.min(node.size or 0, tvb:len() - node.at)
  return tvb(node.at, size)
end

local show

local function show_value(node, tree, tvbs)
  local field, range = pf[node.name], range_of(node, tvbs)
  local value = node.value
  local known = NAMES[node.name]
  if known[1] == "bytes" then
    value = B.hex_bytes(value) -- where there is no range to take them from
  elseif known[1] ~= "text" and known[2] > 32 then
    if node.high then
      value = UInt64.new(value, node.high)
    else
      value = UInt64.new(value % 4294967296, math.floor(value / 4294967296))
    end
  end
  local item
  if range and known[1] == "bytes" then
    item = tree:add(field, range)
  elseif range then
    item = tree:add(field, range, value)
  else
    item = tree:add(field, value)
  end
  if tree.visible then
    local shown = value_text(node)
    local text = (node.label or known[3]) .. ": " .. shown
    if node.bit then
      text = bits_text(node) .. text
    end
    if node.meaning ~= "" and node.meaning ~= shown then
      text = text .. " (" .. node.meaning .. ")"
    end
    item:set_text(text)
  end
  return item
end

local function show_group(node, tree, tvbs)
  local first, last, raw
  local function widen(part)
    if part.at and part.raw then
      raw = raw or part.raw
      if part.raw == raw then
        first = math.min(first or part.at, part.at)
        last = math.max(last or 0, part.at + (part.size or 0))
      end
    end
    for _, child in ipairs(part.children or {}) do
      widen(child)
    end
  end
  widen(node)
  local range = first and range_of({ raw = raw, at = first, size = last - first }, tvbs)
  local text = node.label .. (node.meaning ~= "" and ": " .. node.meaning or "")
  local item
  if range then
    item = tree:add(proto, range, text)
  else
    item = tree:add(proto, text)
  end
  show(node.children, item, tvbs)
  return item
end

--- Add nodes to a tree.
function show(nodes, tree, tvbs)
  for _, node in ipairs(nodes) do
    if node.problem then
      hidden(tree, pf.problem, node.problem)
      tree:add_proto_expert_info(pe[node.expert or "malformed"], node.problem)
    elseif node.children then
      show_group(node, tree, tvbs)
    else
      local item = show_value(node, tree, tvbs)
      if node.expert then
        item:add_proto_expert_info(pe[node.expert], node.expert_text)
      end
      for _, alias in ipairs(ALIASES_OF[node.name] or {}) do
        local range = range_of(node, tvbs)
        local copy = range and tree:add(pf[alias], range, node.value)
          or tree:add(pf[alias], node.value)
        copy:set_hidden(true)
      end
    end
  end
end

local warn

--- Add the expert infos of nodes, and nothing else.
function warn(nodes, tree)
  for _, node in ipairs(nodes) do
    if node.problem then
      tree:add_proto_expert_info(pe[node.expert or "malformed"], node.problem)
    elseif node.children then
      warn(node.children, tree)
    elseif node.expert then
      tree:add_proto_expert_info(pe[node.expert], node.expert_text)
    end
  end
end

-- Packets -----------------------------------------------------------------------------------------

local function value_of(extractor)
  local found = extractor()
  return found and found.value
end

--- Return a time in nanoseconds as Wireshark's own type; one below zero has two negative parts.
local function from_ns(ns)
  local sign = ns < 0 and -1 or 1
  local whole = math.floor(math.abs(ns) / 1e9)
  return NSTime.new(sign * whole, sign * (math.abs(ns) - whole * 1e9))
end

local SENT = 0

--- Return what is known of a packet without reading it.
local function new_record(raw, length, pinfo, link)
  local number, suffix = (value_of(interface_name) or ""):match("^iop(%d+)%.(%a+)$")
  local time = value_of(time_epoch) or from_ns(math.floor(pinfo.rel_ts * 1e9 + 0.5))
  local record = { number = pinfo.number, seconds = time.secs, ns = time.nsecs, raw = raw,
                   length = length, iop = tonumber(number or "0") % 4294967296 }
  local mfa = value_of(packet_id)
  record.mfa = mfa and tonumber(tostring(mfa))
  if link == "dma" then
    record.channel = pinfo.p2p_dir == SENT and "to_device" or "from_device"
    record.address = (B.u32(raw, 0) or 0) + 4294967296 * (B.u32(raw, 4) or 0)
    record.raw = B.sub(raw, 8, #raw)
  elseif suffix == "in" or suffix == "out" then
    record.channel = suffix
  else
    record.channel = (B.u8(raw, 1) or 0) >= 0x80 and "out" or "in"
  end
  return record
end

local function duration_text(ns)
  local size = math.abs(ns)
  if size < 1e3 then
    return string.format("%.0f ns", ns)
  elseif size < 1e6 then
    return string.format("%.4g us", ns / 1e3)
  elseif size < 1e9 then
    return string.format("%.4g ms", ns / 1e6)
  end
  return string.format("%.4g s", ns / 1e9)
end

local function set_columns(record, pinfo, name)
  -- some IOPs exchange the TIDs in replies
  local target = record.request and record.request.target or record.target
  local device = string.format("iop%d:%03x", record.iop, target)
  local is_to_iop = record.channel == "in" or record.channel == "to_device"
  local source, destination = is_to_iop and "host" or device, is_to_iop and device or "host"
  pinfo.cols.protocol = "I2O"
  pinfo.cols.src = source
  pinfo.cols.dst = destination
  local text = D.info(record)
  if record.kind == "reply" and record.latency then
    local said, problem = text:match("^(.-) ! (.*)$")
    text = (said or text) .. "  " .. duration_text(record.latency)
      .. (problem and " ! " .. problem or "")
  end
  pinfo.cols.info = text == "" and name or name .. "  " .. text
end

local function show_own(record, pinfo, tree, name, length)
  local function add(field_name, value)
    hidden(tree, pf[field_name], value)
  end
  add("type", record.kind)
  add("index", UInt64.new(pinfo.number - 1))
  add("t", from_ns(math.floor(pinfo.rel_ts * 1e9 + 0.5)))
  add("iop", record.iop)
  add("dir", (record.channel == "in" or record.channel == "to_device") and "in" or "out")
  if not record.is_short then
    add("name", name)
  end
  add("length", UInt64.new(length))
  if record.mfa then
    local high, low = math.floor(record.mfa / 4294967296), record.mfa % 4294967296
    generated(tree, pf.mfa, UInt64.new(low, high), "MFA: " .. B.hex(record.mfa, 8))
  end
  if record.class then
    generated(tree, pf.device_class, record.class,
              "Device class: " .. B.hex(record.class, 3) .. " ("
                .. N.meaning_of.class_id(record.class) .. ")")
  end
  if record.kind == "request" then
    for index, number in ipairs(record.replies or {}) do
      if index <= 64 then
        generated(tree, pf.reply_in, number)
      end
    end
  elseif record.request then
    generated(tree, pf.request_in, record.request.number)
    if record.kind == "reply" then
      add("reply_to", UInt64.new(record.request.number - 1))
      generated(tree, pf.latency, from_ns(record.latency),
                "Response time: " .. duration_text(record.latency))
    end
  end
end

local function finish(record, tvb)
  if record.kind ~= "request" then
    record.raw = nil -- Wireshark has it; of requests later packets need it
  end
  return tvb:len()
end

local own_dissector

local function dissect(tvb, pinfo, tree, link)
  local raw = tvb:len() > 0 and tvb:raw(0, tvb:len()) or ""
  local length = tvb:reported_len()
  if link == "dma" then
    length = math.max(0, length - 8)
  end
  local record = C.feed(new_record(raw, length, pinfo, link))
  record.raw = link == "dma" and B.sub(raw, 8, #raw) or raw
  local name = D.name(record)
  set_columns(record, pinfo, name)
  local target = record.request and record.request.target or record.target
  local title =
    string.format("I2O, %s %s, iop%d TID 0x%03x", record.kind, name, record.iop, target)
  local subtree = tree:add(proto, tvb(), title)
  show_own(record, pinfo, subtree, name, length)
  own_dissector = own_dissector or Dissector.get("i2o")
  if not tree:referenced(own_dissector) then
    N.is_quiet = true
    local nodes = D.nodes(record)
    N.is_quiet = false
    warn(nodes, subtree) -- nobody looks at the fields, not even a filter
    return finish(record, tvb)
  end
  local tvbs = { [record.raw] = tvb }
  if link == "dma" then
    if #raw >= 8 then
      local address = subtree:add(pf.address, tvb(0, 8), UInt64.new(B.u32(raw, 0), B.u32(raw, 4)))
      address:set_text("Address: " .. B.hex(record.address, 8))
    end
    if #record.raw > 0 then
      tvbs = { [record.raw] = tvb(8):tvb() }
    end
  end
  local nodes, sources = D.nodes(record)
  for _, source in ipairs(sources) do
    if source.raw ~= record.raw and #source.raw > 0 and not tvbs[source.raw] then
      tvbs[source.raw] = ByteArray.new(source.raw, true):tvb(source.label)
    end
  end
  show(nodes, subtree, tvbs)
  return finish(record, tvb)
end

-- Messages of endpoints ---------------------------------------------------------------------------

local function show_own_of_message(record, packet, pinfo, tree, name, ended, ended_by)
  local function add(field_name, value)
    hidden(tree, pf[field_name], value)
  end
  add("type", "message")
  add("index", UInt64.new(pinfo.number - 1))
  add("t", from_ns(math.floor(pinfo.rel_ts * 1e9 + 0.5)))
  add("endpoint", packet.endpoint)
  add("name", name)
  local direction = M.direction(record)
  if direction then
    add("dir", direction)
  end
  if packet.id then
    add("mfa", UInt64.new(packet.id % 4294967296, math.floor(packet.id / 4294967296)))
  end
  if ended then
    generated(tree, pf.request_in, ended.number)
    add("reply_to", UInt64.new(ended.number - 1))
    generated(tree, pf.latency, from_ns(ended.latency),
              "Time since the send: " .. duration_text(ended.latency))
  elseif ended_by then
    generated(tree, pf.reply_in, ended_by)
  end
end

local function dissect_message(tvb, pinfo, tree)
  local raw = tvb:len() > 0 and tvb:raw(0, tvb:len()) or ""
  local record = M.parse(raw)
  local number = (value_of(interface_name) or ""):match("^ep(%d+)$")
  local time = value_of(time_epoch) or from_ns(math.floor(pinfo.rel_ts * 1e9 + 0.5))
  local id = value_of(packet_id)
  local packet = { number = pinfo.number, seconds = time.secs, ns = time.nsecs,
                   endpoint = tonumber(number or "0") % 4294967296,
                   id = id and tonumber(tostring(id)) }
  local ended, ended_by = M.feed(record, packet)
  local name, text = M.name(record), M.info(record)
  if ended then
    local said, problem = text:match("^(.-) ! (.*)$")
    text = (said or text) .. "  " .. duration_text(ended.latency)
      .. (problem and " ! " .. problem or "")
  end
  local here = "ep" .. packet.endpoint
  local there = record.peer and record.peer ~= "" and record.peer:gsub("[%c\127]", "?") or "peer"
  local is_inward = M.direction(record) == "in"
  pinfo.cols.protocol = "I2O"
  pinfo.cols.src = is_inward and there or here
  pinfo.cols.dst = is_inward and here or there
  pinfo.cols.info = text == "" and name or name .. "  " .. text
  local subtree = tree:add(proto, tvb(), string.format("I2O, message %s, %s", name, here))
  show_own_of_message(record, packet, pinfo, subtree, name, ended, ended_by)
  show(M.nodes(record), subtree, { [raw] = tvb })
  if record.problem then
    hidden(subtree, pf.length, UInt64.new(tvb:reported_len()))
  end
  return tvb:len()
end

local encapsulations = wtap_encaps or wtap

function proto.dissector(tvb, pinfo, tree)
  if pinfo.match == encapsulations.USER2 then
    return dissect_message(tvb, pinfo, tree)
  end
  return dissect(tvb, pinfo, tree, pinfo.match == encapsulations.USER1 and "dma" or "frame")
end

function proto.init()
  C.reset()
  M.reset()
end

local links = DissectorTable.get("wtap_encap")
links:add(encapsulations.USER0, proto)
links:add(encapsulations.USER1, proto)
links:add(encapsulations.USER2, proto)
