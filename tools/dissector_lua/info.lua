-- SPDX-License-Identifier: Apache-2.0
-- One packet in a few words, for the Info column: what i2o.decode.summary says.

local MAX_FIELDS, MAX_DMA, ENOUGH = 5, 70, 4096
local WIDE_MARK = " ! contexts of 64 bits: fields behind them are not decoded"
local HEADER_FIELDS = {}
for name in ("version_offset msg_flags message_size target_address initiator_address function "
             .. "initiator_context transaction_context req_status detailed_status_code")
    :gmatch("%S+") do
  HEADER_FIELDS[name] = true
end
local HEX_NAMES = {}
for word in ("flags address mask mfa context identifier id indicator"):gmatch("%S+") do
  HEX_NAMES[word] = true
end
local BLOCK_FUNCTIONS = {
  [FUNCTION.BSA_BLOCK_READ] = true, [FUNCTION.BSA_BLOCK_WRITE] = true,
  [FUNCTION.BSA_BLOCK_WRITE_VERIFY] = true,
}
local TITLES = {
  status_block = "status", reset_status = "reset status:", outbound_status = "outbound status:",
  reclaim_list = "reclaim list", hrt = "HRT:", lct = "LCT:", system_table = "system table:",
  software = "module header", operations = "operations:", results = "results:",
  config_page = "config page", config_query = "config query", inquiry = "INQUIRY data:",
  vpd = "VPD:", read_capacity = "capacity:", mode_sense = "mode pages", mode_select = "mode pages",
  report_luns = "LUNs:", sense = "sense:",
}

--- Return a number of bytes: 512, 64K, 1M, exactly.
local function size_text(count)
  if count > 0 and count % 1048576 == 0 then
    return B.dec(count / 1048576) .. "M"
  end
  return count > 0 and count % 1024 == 0 and B.dec(count / 1024) .. "K" or B.dec(count)
end

--- Return a list in a few words, or what is wrong with it.
local function sgl_text(record)
  local frame = C.frame(record)
  local elements, wrong =
    S.elements(frame, S.start(frame), #frame, B.has(record.flags, 0x02))
  if wrong then
    return "! " .. wrong
  end
  local pieces, chained, sizes = 0, false, { 0 }
  for _, element in ipairs(elements) do
    if element.kind == "chain" then
      chained = true
    elseif element.kind == "simple" or element.kind == "page_list" or element.kind == "immediate"
           or element.kind == "bit_bucket" then
      pieces = pieces + math.max(1, #element.pieces)
      sizes[#sizes] = sizes[#sizes] + element.count
      if element.end_of_buffer then
        sizes[#sizes + 1] = 0
      end
    end
  end
  local shown, more = {}, ""
  for _, size in ipairs(sizes) do
    if size > 0 and #shown == MAX_FIELDS then
      more = " + ..."
    elseif size > 0 then
      shown[#shown + 1] = size_text(size)
    end
  end
  local text = table.concat(shown, " + ") .. more
  if pieces > #shown then
    text = text .. " in " .. pieces .. " pieces"
  end
  if chained then
    text = text ~= "" and text .. ", chained" or "chained"
  end
  return "SGL " .. (text ~= "" and text or "empty")
end

--- Return where a list's bytes are; nothing if there is no list.
local function memory_text(record)
  local frame = C.frame(record)
  if S.start(frame) == 0 then
    return ", no SGL"
  end
  local elements, wrong = S.elements(frame, S.start(frame), #frame, B.has(record.flags, 0x02))
  local simple = not wrong
  for _, element in ipairs(elements) do
    simple = simple and element.kind == "simple" and #element.contexts == 0 and not element.is_local
      and #element.pieces == 1
  end
  if simple and #elements == 1 then
    return ", memory " .. B.hex(elements[1].pieces[1].address, 8)
  elseif simple and #elements > 1 then
    return ", " .. #elements .. " pieces"
  end
  return ", " .. sgl_text(record)
end

local function value_text(row, value)
  local name = row[7] and N.names_text(row[7], value) or ""
  if name ~= "" then
    return name
  end
  for word in row[1]:gmatch("[^_]+") do
    if HEX_NAMES[word] then
      return B.hex(value)
    end
  end
  return value > 0xFFFF and B.hex(value) or B.dec(value)
end

--- Return the fields of the body that are not zero.
local function fields_text(layout, raw)
  local parts = {}
  for _, node in ipairs((N.fields(layout, raw, 0))) do
    if #parts == MAX_FIELDS then
      break
    end
    local name = node.name
    if not HEADER_FIELDS[name] and not name:find("reserved", 1, true)
       and type(node.value) == "number" then
      local value = (node.high or 0) * 4294967296 + node.value
      if value ~= 0 then
        parts[#parts + 1] = name .. " " .. value_text(N.row_of(layout, name), value)
      end
    end
  end
  return table.concat(parts, ", ")
end

local function scb_text(record, scb)
  local command = X.command(record.raw, scb.place, scb.length)
  local count = B.u32(record.raw, scb.place + 16) or 0
  local text = command.meaning
  if count == 0 then
    return text
  end
  return text .. ", " .. size_text(count) .. memory_text(record)
end

local function request_text(record)
  local raw, layout = record.raw, D.layout(record)
  local size = 4 * record.size_words
  if #raw < 16 then
    return size <= #raw and "" or "! only " .. #raw .. " bytes of it"
  elseif B.has(record.flags, 0x02) then
    return B.dec(size) .. " bytes" .. WIDE_MARK
  end
  local text
  local scb = D.scb_of(record)
  if BLOCK_FUNCTIONS[record.func] and #raw >= 32 and size >= 32 and layout
     and N.row_of(layout, "logical_byte_address") then
    local place = B.u32(raw, 24) + 4294967296 * B.u32(raw, 28)
    text = size_text(B.u32(raw, 20)) .. " at " .. B.hex(place) .. memory_text(record)
  elseif scb and record.func == FUNCTION.PRIVATE_MESSAGE then
    text = "device " .. B.hex(B.u16(raw, 20), 3) .. ", " .. scb_text(record, scb)
  elseif scb then
    text = scb_text(record, scb)
  elseif record.func == FUNCTION.EXEC_STATUS_GET or record.func == FUNCTION.EXEC_IOP_RESET then
    local range = C.ranges_of(record)[1]
    text = range and "to memory " .. B.hex(range.address, 8) or "to no memory"
  elseif layout == "private.private_message.request" and #raw >= 20 then
    text = "organization " .. B.hex(B.u16(raw, 18), 4) .. ", function " .. B.hex(B.u16(raw, 16), 4)
  elseif record.func == FUNCTION.UTIL_EVENT_REGISTER and #raw >= 20 and size >= 20 then
    local names = D.event_names(B.u32(raw, 16), record.class)
    text = "event_mask " .. (names ~= "" and names or "0")
  elseif not layout then
    return B.dec(size) .. " bytes, unknown function"
  else
    text = fields_text(layout, raw)
    if S.start(C.frame(record)) > 0 then
      text = text ~= "" and text .. ", " .. sgl_text(record) or sgl_text(record)
    end
  end
  if size > #raw then
    text = text .. " ! " .. B.dec(size - #raw) .. " bytes short of its MessageSize"
  end
  return record.flags >= 0x80 and text .. " ! marked as a reply" or text
end

local function status_text(record)
  local raw = record.raw
  local status, detail = B.u8(raw, 19), B.u16(raw, 16)
  local text = N.names_text("ReqStatus", status)
  if text == "" then
    text = "status " .. B.hex(status, 2)
  end
  if detail > 0 then
    local name = N.names_text(D.status_values(record), detail)
    if name == "" then
      name = N.names_text("DetailedStatus", detail)
    end
    text = text .. ", " .. (name ~= "" and name or "detail " .. B.hex(detail, 4))
  end
  local row = N.row_of(D.layout(record), "transfer_count")
  if row and row[2] == 20 and #raw >= 24 then
    text = text .. ", " .. size_text(B.u32(raw, 20))
  end
  return text
end

local function reply_text(record)
  local raw, text = record.raw, nil
  if #raw < 16 then
    return "! only " .. #raw .. " bytes of a frame"
  elseif B.has(record.flags, 0x20) then
    text = "FAIL"
    if #raw >= 32 then
      local name = N.names_text("FailureCode", B.u8(raw, 19))
      local kind = N.names_text("FailureSeverity", B.u8(raw, 18))
      text = "FAIL " .. (name ~= "" and name or "code " .. B.hex(B.u8(raw, 19), 2)) .. " ("
        .. (kind ~= "" and kind or "severity " .. B.hex(B.u8(raw, 18))) .. "), frame "
        .. B.hex(B.u32(raw, 28)) .. " preserved"
    end
  elseif B.has(record.flags, 0x02) then
    text = B.dec(4 * record.size_words) .. " bytes" .. WIDE_MARK
  elseif record.func == FUNCTION.UTIL_EVENT_REGISTER then
    local indicator = B.u32(raw, 16)
    text = indicator and "event " .. D.event_names(indicator, record.class) or "no event"
  elseif #raw < 20 then
    text = "no status"
  elseif not N.row_of(D.layout(record), "req_status") then
    text = fields_text(D.layout(record), raw)
  else
    text = status_text(record)
  end
  if 4 * record.size_words > #raw then
    text = text .. " ! " .. B.dec(4 * record.size_words - #raw)
      .. " bytes short of its MessageSize"
  end
  if not record.request then
    text = text .. " ! answers no request that was seen"
  elseif record.request.target ~= record.target then
    text = text .. " ! TIDs are swapped"
  end
  return record.flags < 0x80 and text .. " ! not marked as a reply" or text
end

local function dma_text(record)
  if record.is_reply_frame then
    return "the reply frame"
  elseif record.request and record.buffer and record.buffer < 0 then
    return "chained SGL, " .. record.length .. " bytes"
  elseif record.request and record.buffer then
    local whole = record.buffers and record.buffers[record.buffer]
    if whole and #whole >= record.offset + #record.raw then
      local found = D.structure(record, B.sub(whole, 0, ENOUGH))
      if found then
        local label = found.label or found.name
        local text = ((TITLES[label] or label) .. " " .. (found.meaning or ""))
          :gsub("[ :]+$", "")
        local part = record.offset > 0 and D.part_text(record) or ""
        return part ~= "" and text .. " (" .. part .. ")" or text
      end
    end
  end
  return "data " .. D.data_text(record)
end

--- Return what stands behind the name in the Info column.
function D.info(record)
  if record.kind == "request" then
    return request_text(record)
  elseif record.kind == "reply" then
    return reply_text(record)
  end
  local text = dma_text(record)
  return #text <= MAX_DMA and text or text:sub(1, MAX_DMA - 3) .. "..."
end
