-- SPDX-License-Identifier: Apache-2.0
-- Everything in a packet behind or beside the fixed part, and what is wrong with it. The same nodes
-- as in i2o.decode's sgl_nodes, request_nodes, reply_nodes, event_nodes, buffer_nodes and
-- frame_problems.

local HEADER_SIZE, MIN_FRAME = 16, 12
local SHOWN, MAX_TEXT = 64, 4096
local MSG_HEADER = "common.msg_header"
local PARAMETERS = { [FUNCTION.UTIL_PARAMS_GET] = true, [FUNCTION.UTIL_PARAMS_SET] = true }
local EVENT_FUNCTIONS =
  { [FUNCTION.UTIL_EVENT_REGISTER] = true, [FUNCTION.UTIL_EVENT_ACK] = true }
local SCSI_CLASSES = { [CLASS.SCSI_PERIPHERAL] = true, [CLASS.FIBRE_CHANNEL_PERIPHERAL] = true }

local function append(list, more)
  for _, item in ipairs(more) do
    list[#list + 1] = item
  end
end

--- Return a frame cut at its MessageSize, or whole if that is too small for a header.
local function frame_of(record)
  return record.size_words >= 3 and C.frame(record) or record.raw
end

local function layout_name(layout)
  return LAYOUTS[layout][1]
end

-- Scatter/gather lists ----------------------------------------------------------------------------

local function element_flags(element)
  local marks = {}
  if element.out ~= nil then
    marks[1] = element.out and "OUT" or "IN"
  end
  for _, mark in ipairs({ { "LOCAL", "is_local" }, { "EOB", "end_of_buffer" },
                          { "LAST", "last" } }) do
    if element[mark[2]] then
      marks[#marks + 1] = mark[1]
    end
  end
  return marks
end

local function element_text(element)
  local text = element.kind:gsub("_", " ")
  local kind = element.kind
  if kind == "simple" or kind == "page_list" or kind == "immediate" or kind == "bit_bucket"
     or kind == "chain" then
    text = text .. " " .. N.human_size(element.count)
  end
  if (kind == "simple" or kind == "chain") and element.pieces[1] then
    text = text .. " at " .. B.hex(element.pieces[1].address, 8)
  elseif kind == "page_list" then
    text = text .. " in " .. #element.pieces .. " pages"
  end
  for _, mark in ipairs(element_flags(element)) do
    text = text .. ", " .. mark
  end
  return text
end

--- Return a number of 4 or 8 bytes with its place if it is in the frame.
local function wide_number(name, raw, place, list, meaning)
  local node = { name = name, raw = raw, at = place.at, size = place.size, meaning = meaning or "" }
  if place.size == 8 then
    node.value, node.high = B.u32(list, place.at), B.u32(list, place.at + 4)
  else
    node.value = B.u32(list, place.at)
  end
  return node
end

local function element_node(index, element)
  -- places in chained lists are not shown
  local raw = element.address == nil and element.list or nil
  local count_meaning = N.human_size(element.count)
  if element.kind == "attributes" or element.kind == "short_transaction" then
    count_meaning = B.bits(element.count, 16, 8) .. " words"
  end
  local at = element.offset
  local children = {
    N.derived("kind", element.kind),
    N.number("sgl.flags", raw, at + 3, 1, table.concat(element_flags(element), "|"), element.flags),
    N.number("count", raw, at, 3, count_meaning, element.count),
  }
  local function add(node)
    children[#children + 1] = node
  end
  if element.address then
    add(N.derived("list_address", element.address, "in the chained list there"))
  end
  if #element.contexts > 0 then
    local contexts = {}
    for place, context in ipairs(element.contexts) do
      contexts[place] = wide_number("sgl.contexts", raw, context, element.list)
    end
    add(N.group("contexts", contexts))
  end
  local kind = element.kind
  if kind == "simple" or kind == "chain" then
    local piece = element.pieces[1]
    if piece then
      add(wide_number("address", raw, piece, element.list))
    end
    local length = piece and piece.length or 0
    add(N.derived("sgl.length", length, N.human_size(length)))
  elseif kind == "page_list" then
    local pages = {}
    for place, piece in ipairs(element.pieces) do
      pages[place] = N.group("[" .. place - 1 .. "]", {
        wide_number("address", raw, piece, element.list),
        N.derived("sgl.length", piece.length),
      })
    end
    add(N.group("pages", pages))
  elseif kind == "attributes" then
    local flags = element.attribute_flags
    add(N.derived("sgl_attribute_flags", flags, N.names_text("SglAttributeFlags", flags)))
    if element.page_size then
      add(N.derived("page_frame_size", element.page_size, N.human_size(element.page_size)))
    end
  elseif #element.data > 0 then
    local node = N.bytes("data", element.list, element.data_at, #element.data)
    node.raw = raw
    add(node)
  end
  return N.group("[" .. index .. "]", children, element_text(element))
end

local function list_nodes(raw, start, wide, chained)
  local read
  if chained then
    read = function(address, length)
      local data = chained[address]
      return data and #data >= length and B.sub(data, 0, length) or nil
    end
  end
  local elements, wrong = S.elements(raw, start, #raw, wide, read)
  local items, pages, nodes = {}, 0, {}
  for _, element in ipairs(elements) do
    pages = pages + #element.pieces
    if #items >= N.MAX_ITEMS or pages > N.MAX_ITEMS then
      wrong = "more than " .. N.MAX_ITEMS .. " elements or pages: the rest is not shown"
      break
    end
    element.list = element.address and chained[element.address] or raw
    items[#items + 1] = element_node(#items, element)
  end
  nodes[1] = N.group("sgl", items, #items .. (#items == 1 and " element" or " elements"))
  if wrong then
    nodes[2] = N.problem(wrong)
  end
  return nodes
end

local function is_wide(record)
  return B.has(record.flags, 0x02)
end

local function sgl_nodes(frame, record)
  local start = #frame >= HEADER_SIZE and S.start(frame) or 0
  if start == 0 then
    return {}
  elseif start < HEADER_SIZE then
    return { N.problem("the SGL is said to start at byte " .. start .. ", inside the header") }
  elseif start > #frame then
    if #frame < 4 * record.size_words then
      return {} -- that the frame is cut is said elsewhere
    end
    return { N.problem("the SGL is said to start at byte " .. start .. ", behind the frame") }
  end
  return list_nodes(frame, start, is_wide(record), record.chained)
end

--- Return the data of a request's buffer that stand in the frame itself, and where they do.
local function immediate_data(frame, buffer)
  local start = #frame >= HEADER_SIZE and S.start(frame) or 0
  if start < HEADER_SIZE or start > #frame then
    return nil
  end
  local number = 0
  for _, element in ipairs((S.elements(frame, start, #frame, B.has(B.u8(frame, 1), 0x02)))) do
    if number == buffer then
      if element.kind ~= "immediate" or not (element.end_of_buffer or element.last) then
        return nil
      end
      return element.data, element.data_at
    end
    number = number + (element.end_of_buffer and 1 or 0)
  end
  return nil
end

-- Requests ----------------------------------------------------------------------------------------

local SCB_PLACES = {
  ["scsi_peripheral.scsi_scb_exec.request"] = 0,
  ["private.dpt_private_scsi_scb_exec.request"] = 0,
}
for layout in pairs(SCB_PLACES) do
  SCB_PLACES[layout] = N.row_of(layout, "cdb_length")[2]
end
local STATIC_FRAME =
  N.row_of("executive.exec_static_mf_create.request", "static_message_frame")[2]
local PRINT_COUNT =
  N.row_of("private.dpt_private_driver_printf.request", "print_buffer_byte_count")[2]

--- Return the SCSI control block of a request: cdb, place, length, has_sense_buffer.
local function scb_of(request)
  local layout = D.request_layout(request)
  local place = layout and SCB_PLACES[layout]
  local frame = C.frame(request)
  if not place or #frame <= place + 4 then
    return nil
  end
  local length = B.u8(frame, place)
  return {
    cdb = B.sub(frame, place + 4, length == 0 and 16 or math.min(length, 16)),
    place = place + 4, length = length,
    has_sense_buffer = B.has(B.u16(frame, place + 2), 0x0060),
  }
end

local function ascii_text(raw)
  local text = raw:gsub("[%z ]+$", ""):gsub("[^\32-\126]", "?")
  return (text:gsub("^ +", ""):gsub(" +$", ""))
end

local function printed(frame)
  local start = PRINT_COUNT + 4
  local count = B.number(frame, PRINT_COUNT, math.max(0, math.min(4, #frame - PRINT_COUNT))) or 0
  local raw = B.sub(frame, start, math.min(count, N.MAX_ITEMS))
  return { name = "text", raw = frame, at = start, size = #raw, value = ascii_text(raw),
           meaning = "" }
end

--- Return what is between the layout and the list, or the end of the frame.
local function between(frame, layout)
  local finish, size = #frame, LAYOUTS[layout][2]
  local start = finish >= HEADER_SIZE and S.start(frame) or 0
  if start >= HEADER_SIZE and start <= finish then
    if start < size then
      return { N.problem("the SGL at byte " .. start .. " starts inside " .. layout_name(layout)
        .. ", which has " .. size) }
    end
    finish = start
  end
  if finish <= size then
    return {}
  end
  return { N.bytes("rest", frame, size, math.min(finish - size, N.MAX_ITEMS)) }
end

local function request_nodes(record, frame)
  local layout, nodes = D.request_layout(record), {}
  local scb = scb_of(record)
  if scb then
    nodes[1] = X.command(frame, scb.place, scb.length)
    if scb.length == 0 or scb.length > 16 then
      nodes[2] = N.problem("cdb_length is " .. scb.length .. ", a CDB has 1 to 16 bytes", frame,
                           scb.place)
    end
  end
  if layout == "executive.exec_static_mf_create.request" then
    nodes[#nodes + 1] = N.group("static_frame", (N.fields(MSG_HEADER, frame, STATIC_FRAME)))
  end
  if layout == "private.dpt_private_driver_printf.request" then
    nodes[#nodes + 1] = printed(frame)
    return nodes
  end
  if PARAMETERS[record.func] then
    local data, place = immediate_data(frame, 0)
    if data then
      local list = B.sub(frame, 0, place + #data)
      nodes[#nodes + 1] = P.operations(list, record.class, place)
      record.inline_list = list
    end
  end
  if layout then
    append(nodes, between(frame, layout))
  end
  append(nodes, sgl_nodes(frame, record))
  return nodes
end

-- Events ------------------------------------------------------------------------------------------

local function event_names(mask, class)
  if mask == 0xFFFFFFFF then
    return "all events"
  end
  local generic, own = 0, 0
  for bit = 0, 31 do
    if B.bits(mask, bit, 1) == 1 then
      if B.bits(EVENTS.generic, bit, 1) == 1 then
        generic = generic + 2 ^ bit
      else
        own = own + 2 ^ bit
      end
    end
  end
  local parts = {}
  if generic > 0 then
    parts[1] = N.names_text("GenericEvent", generic)
  end
  if own > 0 then
    local values = class and EVENTS.of_class[class]
    local text = values and N.names_text(values, own) or ""
    parts[#parts + 1] = text ~= "" and text or B.hex(own)
  end
  return table.concat(parts, "|")
end

local function event_data_text(indicator, word, class)
  if indicator == EVENTS.field_modified then
    local found = KINDS[D.kind_of(class)].groups[word % 65536]
    return string.format("group 0x%04X", word % 65536)
      .. (found and " " .. layout_name(found[1]) or "")
  end
  local values = EVENTS.data[indicator]
  if not values and class == CLASS.EXECUTIVE then
    values = EVENTS.executive_data[indicator]
  end
  return values and N.names_text(values, word) or ""
end

local function event_words(frame, start)
  local items = {}
  local at = start
  while at < #frame and #items < N.MAX_ITEMS do
    items[#items + 1] = N.number("event_words", frame, at, math.min(4, #frame - at))
    at = at + 4
  end
  return #items > 0 and { N.group("event_words", items) } or {}
end

local function event_nodes(frame, class)
  if #frame <= 20 then
    return {}
  end
  local indicator = B.u32(frame, 16)
  local is_lct = false
  for bit = 0, 31 do
    if B.bits(EVENTS.lct, bit, 1) == 1 and B.bits(indicator, bit, 1) == 1 then
      is_lct = true
    end
  end
  if class == CLASS.EXECUTIVE and is_lct and #frame > 24 then
    local nodes = { T.lct_entry(frame, 20) }
    append(nodes, event_words(frame, 20 + LAYOUTS["tables.lct_entry"][2]))
    return nodes
  end
  return event_words(frame, 24)
end

-- Replies -----------------------------------------------------------------------------------------

local SENSE_COUNT, SENSE, ERROR_OFFSET, TRL = 24, 28, 20, 20
local VARIABLE_LENGTH = 0x40

local function preserved(request)
  if not request then
    return {}
  end
  local name = D.name(request)
  local nodes = { N.derived("preserved.name", name),
                  N.derived("preserved.index", request.number - 1) }
  if request.mfa then
    nodes[3] = N.derived("preserved.mfa", request.mfa)
  end
  for _, context in ipairs({ { "initiator_context", 8 }, { "transaction_context", 12 } }) do
    local value = B.u32(request.raw, context[2])
    if value then
      nodes[#nodes + 1] = N.derived(context[1], value)
    end
  end
  return { N.group("preserved", nodes, name) }
end

local function error_field(record, frame)
  if #frame < ERROR_OFFSET + 5 then
    return {}
  end
  local byte, bit = B.u32(frame, ERROR_OFFSET), B.u8(frame, ERROR_OFFSET + 4)
  local request, layout = record.request, nil
  if request and not request.is_short then
    layout = D.request_layout(request)
  else
    layout = KINDS[D.kind_of(record.class)].functions[record.func]
    layout = layout and layout.request
  end
  local where = 8 * byte + bit
  for index = 3, layout and #LAYOUTS[layout] or 2 do
    local row = LAYOUTS[layout][index]
    local first = 8 * row[2] + row[3]
    if first <= where and where < first + row[4] then
      return { N.derived("error_field", row[1]) }
    end
  end
  if request then
    local asked = C.frame(request)
    local start = #asked >= HEADER_SIZE and S.start(asked) or 0
    if start > 0 and byte >= start then
      return { N.derived("error_field", "sgl") }
    end
  end
  return {}
end

local function scsi_nodes(frame, layout)
  local nodes, finish = {}, LAYOUTS[layout][2]
  if #frame < HEADER_SIZE + 4 then
    return nodes, finish
  end
  local hba, device = B.u8(frame, 17), B.u8(frame, 16)
  nodes[1] = N.number("hba_status", frame, 17, 1, N.names_text("ScsiHbaStatus", hba * 256))
  nodes[2] = N.number("scsi_status", frame, 16, 1, N.names_text("ScsiDeviceStatus", device))
  if #frame < SENSE then
    return nodes, finish
  end
  local count = B.u32(frame, SENSE_COUNT)
  if finish <= SENSE_COUNT then
    nodes[3] = N.number("auto_sense_transfer_count", frame, SENSE_COUNT, 4)
    finish = SENSE
  end
  if B.u8(frame, 19) == 0 or #frame == SENSE then
    return nodes, finish
  end
  local stop = count > 0 and math.min(#frame, SENSE + count) or #frame
  if count > 0 or frame:find("[^%z]", SENSE + 1) then
    nodes[#nodes + 1] = X.sense(frame, SENSE, stop)
  end
  return nodes, math.max(finish, stop)
end

local function add_rest(nodes, items, frame, at, count, word)
  if #items < count then
    nodes[#nodes + 1] =
      N.derived("note", #items .. " of " .. count .. " " .. word .. " are here")
  end
  if at < #frame then
    nodes[#nodes + 1] = N.bytes("rest", frame, at, #frame - at)
  end
end

local function transactions(frame, start)
  if #frame < start + 4 then
    return {}
  end
  local count, words = B.u8(frame, 12), math.max(1, B.u8(frame, 13))
  local items, at = {}, start
  while at + 4 <= #frame and #items < count do
    local nodes = { N.number("transaction_context", frame, at, 4) }
    local stop = math.min(#frame, at + 4 * words)
    if B.u8(frame, 15) == VARIABLE_LENGTH then
      stop = #frame
    end
    if stop > at + 4 then
      nodes[2] = N.bytes("data", frame, at + 4, stop - at - 4)
    end
    items[#items + 1] = N.group("[" .. #items .. "]", nodes)
    at = stop
  end
  local nodes = { N.group("transactions", items) }
  add_rest(nodes, items, frame, at, count, "transactions")
  return nodes
end

local function buckets(frame)
  local count, bare = B.u8(frame, 12), B.u8(frame, 15) ~= VARIABLE_LENGTH
  local items, at = {}, TRL + 4
  while at + 4 <= #frame and #items < count do
    local nodes = { N.number("bucket_context", frame, at, 4) }
    at = at + 4
    local packets = {}
    while not bare and at + 8 <= #frame do
      packets[#packets + 1] =
        N.group("[" .. #packets .. "]", (N.fields("lan.lan_packet_info", frame, at, at + 8)))
      local flags = B.u8(frame, at + 3)
      at = at + 8
      if B.has(flags, NUMBER.LAN_LAST_PACKET) then
        break
      end
    end
    if #packets > 0 then
      nodes[2] = N.group("packets", packets)
    end
    items[#items + 1] = N.group("[" .. #items .. "]", nodes)
  end
  local nodes = { N.group("buckets", items) }
  add_rest(nodes, items, frame, at, count, "buckets")
  return nodes
end

local function lan_list(frame, code)
  if code == FUNCTION.LAN_PACKET_SEND or code == FUNCTION.LAN_SDU_SEND then
    return transactions(frame, TRL)
  elseif code == FUNCTION.LAN_RECEIVE_POST and #frame > TRL + 4 then
    return buckets(frame)
  end
  return {}
end

local function reply_nodes(record, frame, layout)
  local finish, chapter = LAYOUTS[layout][2], layout:match("^[^.]+")
  local nodes = {}
  local code, class = D.meant(record)
  if B.has(record.flags, 0x20) then
    nodes = preserved(record.request)
  elseif EVENT_FUNCTIONS[code] then
    nodes, finish = event_nodes(frame, class), #frame
  elseif layout == "common.transaction_error_reply.reply" then
    nodes = error_field(record, frame)
  elseif class == CLASS.LAN and chapter == "lan" then
    nodes = lan_list(frame, code)
    finish = #nodes > 0 and #frame or finish
  elseif B.has(record.flags, 0x10) and layout == "common.multiple_transaction_reply.reply" then
    nodes, finish = transactions(frame, TRL), #frame
  elseif SCSI_CLASSES[class or -1] and chapter == "scsi_peripheral" then
    nodes, finish = scsi_nodes(frame, layout)
  end
  if #frame > finish then
    nodes[#nodes + 1] = N.bytes("rest", frame, finish, math.min(N.MAX_ITEMS, #frame - finish))
  end
  return nodes
end

-- Problems ----------------------------------------------------------------------------------------

local function bytes_word(count)
  return B.dec(count) .. (count == 1 and " byte" or " bytes")
end

local function size_problem(record, layout, missing)
  local have, size = #record.raw, 4 * record.size_words
  if size < MIN_FRAME then
    return "MessageSize is " .. record.size_words .. " words, a header has 4"
  end
  local cut = missing and ", " .. missing .. " is cut" or ""
  if have < size then
    if record.length >= size then
      return "only " .. have .. " of " .. record.length .. " bytes were captured" .. cut
    end
    return "the frame ends at byte " .. have .. ": " .. bytes_word(size - have)
      .. " short of its MessageSize" .. cut
  elseif missing then
    local text = "MessageSize says " .. size .. " bytes"
    if layout then
      text = text .. ", " .. layout_name(layout) .. " has " .. LAYOUTS[layout][2]
    end
    return text .. ": no " .. missing
  elseif record.length > size then
    return bytes_word(record.length - size) .. " behind the end that MessageSize says"
  end
  return nil
end

local function failure_text(raw)
  if #raw < HEADER_SIZE + 4 then
    return "FAIL: the request was not delivered"
  end
  local name, how = N.names_text("FailureCode", B.u8(raw, 19)),
    N.names_text("FailureSeverity", B.u8(raw, 18))
  if name == "" then
    name = "failure code " .. B.hex(B.u8(raw, 19), 2)
  end
  if how == "" then
    how = "severity " .. B.hex(B.u8(raw, 18), 2)
  end
  return "FAIL: the request was not delivered, " .. name .. " (" .. how .. ")"
end

local function unknown_text(record)
  local code, class = record.func, record.class
  local known = KINDS[1].functions[code]
  if class == nil and known and known.is_request then
    return "function " .. B.hex(code, 2) .. " is " .. (known.name or ""):gsub("|", " or ")
      .. ": the class of TID " .. B.hex(record.target, 3) .. " is not known"
  end
  local whose = ""
  if class and code >= 0x20 and code < 0xA0 then
    whose = " for " .. N.meaning_of.class_id(class)
  end
  return "function " .. B.hex(code, 2) .. " is not known" .. whose
end

local function is_unknown(record)
  local code, class = D.meant(record)
  local known = KINDS[D.kind_of(class)].functions[code]
  return not (known and known.name)
end

--- Return a node for everything that is wrong with a frame.
local function frame_problems(record, layout, missing)
  local nodes = {}
  local function add(text, kind)
    if text then
      local node = N.problem(text)
      node.expert = kind
      nodes[#nodes + 1] = node
    end
  end
  local raw = record.raw
  if record.is_short then
    if record.length > #raw then
      add("only " .. #raw .. " of " .. record.length .. " bytes were captured", "short")
    else
      add("a frame of " .. #raw .. " bytes has no header: " .. MIN_FRAME .. " are the least",
          "short")
    end
    return nodes
  end
  add(size_problem(record, layout, missing), "short")
  local version = B.u8(raw, 0) % 16
  if version > 1 then
    add("version " .. version .. " is reserved, 1 is I2O 1.5")
  end
  local flags = record.flags
  if record.kind == "request" then
    add(flags >= 0x80 and "a request has the REPLY flag")
    add(B.has(flags, 0x20) and "a request has the FAIL flag")
  else
    add(flags < 0x80 and "a reply lacks the REPLY flag")
    add(B.has(flags, 0x20) and failure_text(raw), "fail")
    local request = record.request
    if not request then
      add(#raw >= HEADER_SIZE and "it answers no request in this capture", "orphan")
    elseif request.target ~= record.target or request.initiator ~= record.initiator then
      add("its TIDs are exchanged: the request went from " .. B.hex(request.initiator, 3) .. " to "
        .. B.hex(request.target, 3) .. ", and a reply repeats both", "swapped")
    end
  end
  local reserved = B.bits(flags, 2, 2) * 4
  add(reserved > 0 and "reserved MsgFlags " .. B.hex(reserved, 2) .. " are set")
  add(is_wide(record) and "contexts of 64 bits: fields behind word 2 are two words further on")
  if not layout or (record.kind ~= "request" and is_unknown(record)) then
    add(unknown_text(record), "unknown")
  end
  return nodes
end

-- Frames ------------------------------------------------------------------------------------------

local function meanings_of(record)
  local class = record.class
  local found = {}
  function found.target_address(tid)
    local is_swapped = record.request and record.request.target ~= record.target
    if tid == record.target and tid ~= 0 and class ~= nil and not is_swapped then
      return N.meaning_of.class_id(class)
    end
    return N.meaning_of.target_address(tid)
  end
  found["function"] = function(code)
    return D.function_name(code, class)
  end
  function found.function_to_abort(code)
    return D.function_name(code, class)
  end
  if record.kind == "reply" then
    function found.version_offset(value)
      if value == 1 then
        return "I2O 1.5"
      end
      return (N.meaning_of.version_offset(value):gsub("no SGL", "no list"):gsub("SGL", "TRL"))
    end
    function found.detailed_status_code(code)
      local name = N.names_text(D.status_values(record), code)
      return name ~= "" and name or N.names_text("DetailedStatus", code)
    end
  end
  if EVENT_FUNCTIONS[record.func] then
    local indicator = B.u32(record.raw, 16) or 0
    function found.event_mask(mask)
      return event_names(mask, class)
    end
    found.event_indicator = found.event_mask
    function found.event_data(word)
      return event_data_text(indicator, word, class)
    end
  end
  return found
end

local function words_node(frame)
  local finish, start = #frame, S.start(frame)
  if start >= HEADER_SIZE and start < finish then
    finish = start
  end
  local items, at = {}, HEADER_SIZE
  while at < finish and #items < N.MAX_ITEMS do
    items[#items + 1] = N.number("words", frame, at, math.min(4, finish - at))
    at = at + 4
  end
  return N.group("words", items, "from word 4 on")
end

local function frame_nodes(record)
  local layout = D.layout(record)
  local frame = frame_of(record)
  local nodes, missing =
    N.fields(layout or MSG_HEADER, frame, 0, nil, meanings_of(record))
  for _, node in ipairs(nodes) do
    if node.name == "req_status" and node.value ~= 0 and node.value ~= 0x80 then
      local name = N.names_text("ReqStatus", node.value)
      node.expert = "status"
      node.expert_text = "Status " .. (name ~= "" and name or B.hex(node.value, 2))
    end
  end
  if not layout and #frame > HEADER_SIZE then
    nodes[#nodes + 1] = words_node(frame)
  end
  append(nodes, frame_problems(record, layout, missing))
  if not record.is_short then
    append(nodes, record.kind == "request" and request_nodes(record, frame)
      or reply_nodes(record, frame, layout))
  end
  return nodes, frame
end

-- DMA ---------------------------------------------------------------------------------------------

local SIMPLE_BUFFERS = {
  [FUNCTION.EXEC_STATUS_GET * 256] = T.status_block,
  [FUNCTION.EXEC_IOP_RESET * 256] = T.reset_status,
  [FUNCTION.EXEC_OUTBOUND_INIT * 256] = T.outbound_status,
  [FUNCTION.EXEC_OUTBOUND_INIT * 256 + 1] = T.reclaim_list,
  [FUNCTION.EXEC_HRT_GET * 256] = T.hrt,
  [FUNCTION.EXEC_LCT_NOTIFY * 256] = T.lct,
  [FUNCTION.EXEC_SYS_TAB_SET * 256] = T.system_table,
}

--- Return the bytes that the host gave a buffer of a request.
local function capacity(request, buffer)
  local most = 0
  for _, range in ipairs(C.ranges_of(request)) do
    if range.buffer == buffer then
      most = math.max(most, range.offset + range.length)
    end
  end
  return most
end

local function is_text(raw)
  return #raw >= 4 and B.text((raw:gsub("[\t\r\n]", ""))) ~= nil
end

--- Return what data look like at a glance; empty if like nothing in particular.
local function look_of(raw)
  if raw == "" then
    return ""
  elseif not raw:find("[^%z]") then
    return "all zeros"
  elseif B.sub(raw, 510, 2) == "\85\170" then
    return "boot sector"
  elseif B.sub(raw, 0, 8) == "EFI PART" then
    return "GPT header"
  elseif raw == raw:sub(1, 1):rep(#raw) then
    return "all " .. B.hex(B.u8(raw, 0), 2)
  end
  return is_text(raw) and "text" or ""
end

local function data_text(record)
  local text = bytes_word(record.length)
  if record.length > #record.raw then
    text = text .. " (" .. #record.raw .. " captured)"
  end
  if record.request and record.buffer and record.buffer >= 0 then
    text = text .. " at offset " .. B.dec(record.offset) .. " of "
      .. B.dec(capacity(record.request, record.buffer))
  end
  local look = look_of(record.raw)
  return look ~= "" and text .. ", " .. look or text
end

local function data_node(record)
  return N.bytes("data", record.raw, 0, math.min(SHOWN, #record.raw), data_text(record))
end

local function page(name, raw)
  local lines = {}
  local text = B.sub(raw, 0, MAX_TEXT)
  local size = #text
  text = text:gsub("%z+$", "")
  for line in (text .. "\n"):gmatch("(.-)\n") do
    lines[#lines + 1] = ascii_text((line:gsub("^\r+", ""):gsub("\r+$", "")))
  end
  return { name = name, raw = raw, at = 0, size = size, value = table.concat(lines, "\n"),
           meaning = "" }
end

local function operations_of(record)
  local request = record.request
  local known = record.buffers and record.buffers[0]
  if known and #known > 0 then
    local _, operations = P.operations(known, request.class, 0)
    return operations
  end
  local inline = immediate_data(C.frame(request), 0)
  if inline then
    local _, operations = P.operations(inline, request.class, 0)
    return operations
  end
  return nil
end

local function parameters(record, raw)
  if record.buffer == 0 and record.channel == "to_device" then
    return (P.operations(raw, record.request.class, 0))
  elseif record.buffer ~= 1 then
    return nil
  end
  local is_whole = record.length <= #record.raw and #raw < capacity(record.request, 1)
  return P.results(raw, operations_of(record), is_whole)
end

local function scsi_data(record, raw)
  local scb = scb_of(record.request)
  if not scb then
    return nil
  end
  local last = 0
  for _, range in ipairs(C.ranges_of(record.request)) do
    last = math.max(last, range.buffer)
  end
  if scb.has_sense_buffer and last > 0 and record.buffer == last then
    return X.sense(raw, 0, math.min(#raw, N.MAX_ITEMS))
  elseif record.buffer ~= 0 then
    return nil
  elseif record.channel == "from_device" then
    return X.data_in(scb.cdb, raw)
  end
  return X.data_out(scb.cdb, raw)
end

--- Return a buffer as the structure it is for its request, nil if it is plain data.
local function structure(record, raw)
  local request, buffer = record.request, record.buffer
  if #raw == 0 then
    return nil
  end
  local simple = SIMPLE_BUFFERS[request.func * 256 + buffer]
  if simple and buffer < 256 then
    return simple(raw, capacity(request, buffer))
  elseif PARAMETERS[request.func] then
    return parameters(record, raw)
  elseif request.func == FUNCTION.UTIL_CONFIG_DIALOG then
    return page(buffer == 0 and "config_page" or "config_query", raw)
  elseif request.func == FUNCTION.EXEC_SW_DOWNLOAD or request.func == FUNCTION.EXEC_SW_UPLOAD then
    local frame = C.frame(request)
    if buffer == 0 and #frame >= 20 and B.u8(frame, 16) <= 1
       and SOFTWARE_WITH_HEADER[B.u8(frame, 18)] then
      return T.software(raw)
    end
    return nil
  end
  return scsi_data(record, raw)
end

local function part_text(record)
  local is_cut = record.length > #record.raw
  if record.offset == 0 and not is_cut then
    return ""
  end
  local text = "bytes " .. B.dec(record.offset) .. " to " .. B.dec(record.offset + record.length)
  if is_cut then
    text = text .. ", " .. #record.raw .. " of " .. record.length .. " captured"
  end
  return text
end

--- Return the reply that an IOP writes to host memory, as a record of its own.
local function written_reply(record)
  local raw = record.raw
  local route = B.u32(raw, 4)
  return {
    kind = "reply", number = record.number, raw = raw, length = record.length, iop = record.iop,
    flags = B.u8(raw, 1), size_words = B.u16(raw, 2), target = route % 4096,
    initiator = B.bits(route, 12, 12), func = B.bits(route, 24, 8), class = record.class,
    request = record.request,
  }
end

local function buffer_nodes(record)
  if not record.request or not record.buffer then
    return { data_node(record) }
  elseif record.buffer < 0 then
    return list_nodes(record.raw, 0, is_wide(record.request), nil)
  end
  local whole = record.buffers and record.buffers[record.buffer]
  if whole and #whole >= record.offset + #record.raw then
    local found = structure(record, whole)
    if found then
      local nodes, part = { found }, part_text(record)
      if part ~= "" then
        nodes[2] = N.derived("part", part)
      end
      return nodes, whole, found.label or found.name
    end
  end
  return { data_node(record) }
end

--- Return the nodes of a packet, and the strings whose places they mean: { raw, label }.
function D.nodes(record)
  if record.kind ~= "dma" then
    local nodes, frame = frame_nodes(record)
    local sources = { { raw = frame } }
    if record.inline_list then
      sources[2] = { raw = record.inline_list }
    end
    return nodes, sources
  elseif record.is_reply_frame then
    local reply = written_reply(record)
    local nodes, frame = frame_nodes(reply)
    return { N.group("reply_frame", nodes, D.name(reply)) }, { { raw = frame } }
  end
  local nodes, whole, label = buffer_nodes(record)
  return nodes, whole and { { raw = whole, label = label } } or {}
end

-- One line ----------------------------------------------------------------------------------------

D.structure, D.data_text, D.part_text = structure, data_text, part_text
D.scb_of, D.event_names, D.frame_of = scb_of, event_names, frame_of
