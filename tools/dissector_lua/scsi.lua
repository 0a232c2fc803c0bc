-- SPDX-License-Identifier: Apache-2.0
-- SCSI: the CDB of a request, sense data, and the data that common commands take and return. The
-- same nodes as in i2o.decode.scsi_nodes; commands and names come from i2o.decode.scsi.

local MAX_CDB = 16
local INQUIRY, MODE_SENSE_6, MODE_SENSE_10 = 0x12, 0x1A, 0x5A
local MODE_SELECT_6, MODE_SELECT_10 = 0x15, 0x55

--- Return a big-endian number of up to 6 bytes.
local function big(raw, at, size)
  local value = 0
  for index = at, at + size - 1 do
    value = value * 256 + B.u8(raw, index)
  end
  return value
end

local function number(name, raw, at, size, meaning)
  local node = { name = name, raw = raw, at = at, size = size, meaning = meaning or "" }
  if size > 6 then
    node.high, node.value = big(raw, at, 4), big(raw, at + 4, 4)
  else
    node.value = big(raw, at, size)
  end
  return node
end

local function bits(name, raw, at, bit, width, meaning)
  local node = N.number(name, raw, at, 1, meaning, B.bits(B.u8(raw, at), bit, width))
  node.bit, node.width = bit, width
  return node
end

local function whole(node)
  return (node.high or 0) * 4294967296 + node.value
end

--- Return bytes as text: without padding, anything strange as "?".
local function ascii(name, raw, at, size)
  local text = B.sub(raw, at, size):gsub("[%z ]+$", ""):gsub("[^\32-\126]", "?")
  text = text:gsub("^%s+", ""):gsub("%s+$", "")
  return { name = name, raw = raw, at = at, size = size, value = text, meaning = "" }
end

local function note(text)
  return N.derived("note", text)
end

local function is_zero(raw)
  return not raw:find("[^%z]")
end

-- CDBs --------------------------------------------------------------------------------------------

local function command_name(opcode, action)
  local name = action and SCSI.actions[opcode * 256 + action]
  if name then
    return name
  end
  local command = SCSI.commands[opcode]
  if command then
    return command[1]
  end
  return (opcode >= 0xC0 and "vendor_specific_" or "unknown_") .. B.hex(opcode, 2)
end

local function cdb_leaf(raw, cdb, start, field)
  local name, at, size, bit, width = field[1], field[2], field[3], field[4], field[5]
  local node = number(name, raw, start + at, size)
  if size <= 6 then
    node.value = B.bits(node.value, bit, width)
  end
  if bit > 0 or width < 8 * size then
    node.bit, node.width = bit, width
  end
  local opcode = B.u8(cdb, 0)
  if name == "page_code" and (opcode == MODE_SENSE_6 or opcode == MODE_SENSE_10) then
    node.meaning = SCSI.mode_pages[node.value] or ""
  elseif name == "page_code" and opcode == INQUIRY and B.u8(cdb, 1) % 2 == 1 then
    node.meaning = SCSI.vpd_pages[node.value] or ""
  elseif name == "transfer_length" and node.value == 0 and size == 1 then
    node.meaning = "256 blocks"
  end
  return node
end

local function command_text(name, leaves)
  local words = {}
  if leaves.lba then
    words[1] = "lba " .. B.dec(whole(leaves.lba))
  end
  for _, count in ipairs({ "transfer_length", "number_of_blocks", "verification_length" }) do
    local leaf = leaves[count]
    if leaf then
      words[#words + 1] = leaf.meaning ~= "" and leaf.meaning or B.dec(leaf.value) .. " blocks"
    end
  end
  local page = leaves.page_code
  if page and leaves.evpd and leaves.evpd.value == 1 then
    words[#words + 1] = page.meaning ~= "" and page.meaning or "page " .. B.hex(page.value, 2)
  elseif page and page.meaning ~= "" then
    words[#words + 1] = page.meaning
  end
  return #words > 0 and name .. " " .. table.concat(words, ", ") or name
end

--- Return the fields of a CDB as a group.
function X.command(raw, start, length)
  length = length == 0 and MAX_CDB or math.min(length, MAX_CDB)
  local cdb = B.sub(raw, start, length)
  if #cdb == 0 then
    return N.group("command", { N.problem("the CDB is cut off") })
  end
  local opcode = B.u8(cdb, 0)
  local command = SCSI.commands[opcode]
  local fields, leaves, cut = {}, {}, nil
  for _, field in ipairs(command and command[2] or {}) do
    if field[2] + field[3] > #cdb then
      cut = field[1]
      break
    end
    local leaf = cdb_leaf(raw, cdb, start, field)
    fields[#fields + 1] = leaf
    leaves[field[1]] = leaf
  end
  local name = command_name(opcode, leaves.service_action and leaves.service_action.value)
  local children = { N.number("opcode", raw, start, 1, name), N.derived("command.name", name) }
  for _, leaf in ipairs(fields) do
    children[#children + 1] = leaf
  end
  local size = opcode == 0x7F and 0 or SCSI.sizes[B.bits(opcode, 5, 3) + 1]
  if size > 0 and size <= #cdb then
    children[#children + 1] = N.number("control", raw, start + size - 1, 1)
  end
  if cut or size > #cdb then
    size = size > 0 and size or #cdb
    local what = cut and ", " .. cut .. " is cut" or ""
    children[#children + 1] = N.problem(
      name .. " takes " .. size .. " bytes, the CDB has " .. #cdb .. what, raw, start)
  end
  return N.group("command", children, command_text(name, leaves))
end

-- Sense data --------------------------------------------------------------------------------------

local RESPONSES = {
  [0x70] = "current, fixed", [0x71] = "deferred, fixed",
  [0x72] = "current, descriptors", [0x73] = "deferred, descriptors",
}
local FIXED_SENSE = {
  { "information", 3, 4 }, { "additional_length", 7, 1 }, { "command_specific", 8, 4 },
  { "asc", 12, 1 }, { "ascq", 13, 1 }, { "field_replaceable_unit", 14, 1 },
  { "sense_key_specific", 15, 3 },
}

local function additional_sense(code, qualifier)
  local found = SCSI.additional_sense[code * 256 + qualifier]
  if found then
    return found
  elseif code == 0x40 then
    return "diagnostic failure on component " .. B.hex(qualifier, 2)
  elseif code == 0x4D then
    return "tagged overlapped commands, tag " .. B.hex(qualifier, 2)
  elseif code >= 0x80 or qualifier >= 0x80 then
    return "vendor specific " .. B.hex(code, 2) .. "/" .. B.hex(qualifier, 2)
  end
  local general = SCSI.additional_sense[code * 256]
  if general then
    return general .. " (qualifier " .. B.hex(qualifier, 2) .. ")"
  end
  return "unknown " .. B.hex(code, 2) .. "/" .. B.hex(qualifier, 2)
end

local function sense_meaning(key, code, qualifier)
  if not key then
    return ""
  end
  local name = SCSI.sense_keys[key + 1]
  return code and name .. ": " .. additional_sense(code, qualifier) or name
end

local function fixed_sense(raw, start, finish, nodes)
  local key, code, qualifier
  if start + 2 < finish then
    local at = start + 2
    key = B.u8(raw, at) % 16
    nodes[#nodes + 1] = bits("filemark", raw, at, 7, 1)
    nodes[#nodes + 1] = bits("end_of_medium", raw, at, 6, 1)
    nodes[#nodes + 1] = bits("incorrect_length", raw, at, 5, 1)
    nodes[#nodes + 1] = bits("sense_key", raw, at, 0, 4, SCSI.sense_keys[key + 1])
  end
  if start + 14 <= finish then
    code, qualifier = B.u8(raw, start + 12), B.u8(raw, start + 13)
  end
  for _, leaf in ipairs(FIXED_SENSE) do
    if start + leaf[2] + leaf[3] > finish then
      break
    end
    local node = number(leaf[1], raw, start + leaf[2], leaf[3])
    if leaf[1] == "asc" and qualifier then
      node.meaning = additional_sense(code, qualifier)
    end
    nodes[#nodes + 1] = node
  end
  local length = start + 8 <= finish and 8 + B.u8(raw, start + 7) or 18
  local stop = math.min(finish, start + length)
  if stop > start + 18 and not is_zero(B.sub(raw, start + 18, stop - start - 18)) then
    nodes[#nodes + 1] = N.bytes("data", raw, start + 18, stop - start - 18)
  end
  if start + 8 > finish then
    nodes[#nodes + 1] = N.problem("the sense data end after " .. finish - start .. " bytes")
  end
  return N.group("sense", nodes, sense_meaning(key, code, qualifier))
end

local function descriptor_sense(raw, start, finish, nodes)
  if start + 8 > finish then
    nodes[#nodes + 1] = N.problem("the sense data end after " .. finish - start .. " of 8 bytes")
    return N.group("sense", nodes)
  end
  local key, code = B.u8(raw, start + 1) % 16, B.u8(raw, start + 2)
  local qualifier = B.u8(raw, start + 3)
  nodes[#nodes + 1] = bits("sense_key", raw, start + 1, 0, 4, SCSI.sense_keys[key + 1])
  nodes[#nodes + 1] = number("asc", raw, start + 2, 1, additional_sense(code, qualifier))
  nodes[#nodes + 1] = number("ascq", raw, start + 3, 1)
  nodes[#nodes + 1] = number("additional_length", raw, start + 7, 1)
  local items = {}
  local at, stop = start + 8, math.min(finish, start + 8 + B.u8(raw, start + 7))
  while at + 2 <= stop do
    local length = B.u8(raw, at + 1)
    items[#items + 1] = N.group("[" .. #items .. "]", {
      number("descriptors.type", raw, at, 1),
      number("descriptors.length", raw, at + 1, 1),
      N.bytes("data", raw, at + 2, math.max(0, math.min(stop, at + 2 + length) - at - 2)),
    })
    at = at + 2 + length
  end
  if #items > 0 then
    nodes[#nodes + 1] = N.group("descriptors", items)
  end
  return N.group("sense", nodes, sense_meaning(key, code, qualifier))
end

--- Return sense data, fixed or descriptor format, as a group.
function X.sense(raw, start, finish)
  finish = math.min(finish, #raw)
  if start >= finish then
    return N.group("sense", { N.problem("the sense data are cut off") })
  end
  local code = B.u8(raw, start) % 128
  local head = {
    bits("response_code", raw, start, 0, 7, RESPONSES[code] or ""),
    bits("valid", raw, start, 7, 1),
  }
  if code == 0x70 or code == 0x71 then
    return fixed_sense(raw, start, finish, head)
  elseif code == 0x72 or code == 0x73 then
    return descriptor_sense(raw, start, finish, head)
  elseif is_zero(B.sub(raw, start, finish - start)) then
    return N.group("sense", head, "no sense data")
  end
  head[3] = N.bytes("data", raw, start + 1, finish - start - 1)
  head[4] = N.problem("response code " .. B.hex(code, 2) .. " is none of 0x70 to 0x73", raw, start)
  return N.group("sense", head)
end

-- What commands return ----------------------------------------------------------------------------

--- Add the big-endian numbers of a structure that are all there.
local function add_numbers(nodes, raw, finish, leaves)
  for _, leaf in ipairs(leaves) do
    if leaf[2] + leaf[3] <= finish then
      nodes[#nodes + 1] = number(leaf[1], raw, leaf[2], leaf[3])
    end
  end
end

local function add_cut(nodes, raw, size)
  if #raw < size then
    nodes[#nodes + 1] = note("the data end after " .. #raw .. " of " .. size .. " bytes")
  end
end

local function peripheral(raw)
  local kind = B.u8(raw, 0) % 32
  return {
    bits("peripheral_qualifier", raw, 0, 5, 3),
    bits("device_type", raw, 0, 0, 5, SCSI.device_types[kind] or ""),
  }
end

local function inquiry(raw)
  local nodes = peripheral(raw)
  if #raw > 1 then
    nodes[#nodes + 1] = bits("removable", raw, 1, 7, 1)
  end
  add_numbers(nodes, raw, #raw, { { "version", 2, 1 } })
  if #raw > 3 then
    nodes[#nodes + 1] = bits("response_data_format", raw, 3, 0, 4)
  end
  add_numbers(nodes, raw, #raw, { { "additional_length", 4, 1 } })
  if #raw > 7 then
    nodes[#nodes + 1] = bits("command_queueing", raw, 7, 1, 1)
  end
  local words = { SCSI.device_types[B.u8(raw, 0) % 32] or "unknown" }
  for _, text in ipairs({ { "vendor", 8, 8 }, { "product", 16, 16 }, { "revision", 32, 4 } }) do
    if text[2] < #raw then
      local node = ascii(text[1], raw, text[2], math.min(text[3], #raw - text[2]))
      nodes[#nodes + 1] = node
      if node.value ~= "" then
        words[#words + 1] = node.value
      end
    end
  end
  add_cut(nodes, raw, 5)
  return N.group("inquiry", nodes, table.concat(words, " "))
end

local function designators(raw, finish)
  local items, at = {}, 4
  while at + 4 <= finish do
    local length = B.u8(raw, at + 3)
    local stop = math.min(finish, at + 4 + length)
    local set = B.u8(raw, at) % 16
    local is_ascii = set == 2 or set == 3
    items[#items + 1] = N.group("[" .. #items .. "]", {
      bits("code_set", raw, at, 0, 4, is_ascii and "ASCII" or "binary"),
      bits("designator_type", raw, at + 1, 0, 4),
      bits("association", raw, at + 1, 4, 2),
      is_ascii and ascii("designator", raw, at + 4, stop - at - 4)
        or N.bytes("designator_bytes", raw, at + 4, stop - at - 4),
    })
    at = at + 4 + length
  end
  return N.group("designators", items)
end

local BLOCK_LIMITS = {
  { "maximum_compare_and_write_length", 5, 1 }, { "optimal_transfer_length_granularity", 6, 2 },
  { "maximum_transfer_length", 8, 4 }, { "optimal_transfer_length", 12, 4 },
  { "maximum_prefetch_length", 16, 4 }, { "maximum_unmap_lba_count", 20, 4 },
  { "maximum_unmap_block_descriptor_count", 24, 4 },
}

local function vital_product_data(raw)
  local nodes = peripheral(raw)
  if #raw < 4 then
    add_cut(nodes, raw, 4)
    return N.group("vpd", nodes)
  end
  local page, length = B.u8(raw, 1), big(raw, 2, 2)
  local name = SCSI.vpd_pages[page] or ""
  nodes[#nodes + 1] = number("page_code", raw, 1, 1, name)
  nodes[#nodes + 1] = number("page_length", raw, 2, 2)
  local finish = math.min(#raw, 4 + length)
  if page == 0x00 then
    local pages = {}
    for at = 4, finish - 1 do
      pages[#pages + 1] = number("pages", raw, at, 1, SCSI.vpd_pages[B.u8(raw, at)])
    end
    nodes[#nodes + 1] = N.group("pages", pages)
  elseif page == 0x80 then
    nodes[#nodes + 1] = ascii("vpd.serial_number", raw, 4, finish - 4)
  elseif page == 0x83 then
    nodes[#nodes + 1] = designators(raw, finish)
  elseif page == 0xB0 then
    add_numbers(nodes, raw, finish, BLOCK_LIMITS)
  elseif page == 0xB1 then
    add_numbers(nodes, raw, finish, { { "medium_rotation_rate", 4, 2 } })
  elseif finish > 4 then
    nodes[#nodes + 1] = N.bytes("data", raw, 4, finish - 4)
  end
  if finish < 4 + length then
    nodes[#nodes + 1] = note("the page ends after " .. finish .. " of " .. 4 + length .. " bytes")
  end
  return N.group("vpd", nodes, name ~= "" and name or "page " .. B.hex(page, 2))
end

local function capacity(raw, leaves, size)
  local nodes, meaning = {}, ""
  add_numbers(nodes, raw, #raw, leaves)
  if #nodes == 2 then
    local blocks, length = whole(nodes[1]) + 1, nodes[2].value
    meaning = B.dec(blocks) .. " blocks of " .. B.dec(length) .. " bytes, "
      .. N.human_size(blocks * length)
  end
  add_cut(nodes, raw, size)
  return N.group("read_capacity", nodes, meaning)
end

local function mode(raw, header, name)
  local wide = math.floor(header / 4)
  local nodes = {}
  add_numbers(nodes, raw, #raw, { { "mode_data_length", 0, wide }, { "medium_type", wide, 1 } })
  if #raw > wide + 1 then
    nodes[#nodes + 1] = bits("write_protect", raw, wide + 1, 7, 1)
    nodes[#nodes + 1] = bits("dpo_fua", raw, wide + 1, 4, 1)
  end
  if #raw < header then
    add_cut(nodes, raw, header)
    return N.group(name, nodes)
  end
  local length = big(raw, header - wide, wide)
  nodes[#nodes + 1] = number("block_descriptor_length", raw, header - wide, wide)
  local finish, place = #raw, header
  if name == "mode_sense" then
    finish = math.min(finish, wide + big(raw, 0, wide))
  end
  if length >= 8 and place + 8 <= finish then
    nodes[#nodes + 1] = N.group("block_descriptor", {
      number("density_code", raw, place, 1),
      number("number_of_blocks", raw, place + 1, 3),
      number("block_length", raw, place + 5, 3),
    })
  end
  place = place + length
  local pages = {}
  while place + 2 <= finish and #pages < N.MAX_ITEMS do
    local code, head = B.u8(raw, place) % 64, 2
    local parts = { bits("page_code", raw, place, 0, 6, SCSI.mode_pages[code]) }
    if B.has(B.u8(raw, place), 0x40) then
      head = 4
      if place + head > finish then
        break
      end
      parts[2] = number("subpage_code", raw, place + 1, 1)
    end
    local size = big(raw, place + head / 2, head / 2)
    local start = place + head
    local stop = math.min(finish, start + size)
    parts[#parts + 1] = number("page_length", raw, place + head / 2, head / 2)
    parts[#parts + 1] = N.bytes("data", raw, start, stop - start)
    if stop < start + size then
      parts[#parts + 1] = note("the page ends after " .. B.dec(stop - start) .. " bytes")
    end
    pages[#pages + 1] = N.group("[" .. #pages .. "]", parts, SCSI.mode_pages[code])
    place = start + size
  end
  if #pages > 0 then
    nodes[#nodes + 1] = N.group("pages", pages)
  end
  return N.group(name, nodes)
end

local function report_luns(raw)
  local nodes = {}
  add_numbers(nodes, raw, #raw, { { "lun_list_length", 0, 4 } })
  if #nodes == 0 then
    add_cut(nodes, raw, 8)
    return N.group("report_luns", nodes)
  end
  local length, luns = nodes[1].value, {}
  local finish = math.min(#raw, 8 + length)
  while 8 * #luns + 16 <= finish and #luns < N.MAX_ITEMS do
    luns[#luns + 1] = N.bytes("luns", raw, 8 + 8 * #luns, 8)
  end
  nodes[#nodes + 1] = N.group("luns", luns)
  local count = math.floor(length / 8)
  if count > #luns then
    nodes[#nodes + 1] = note(#luns .. " of " .. B.dec(count) .. " LUNs are here")
  end
  return N.group("report_luns", nodes, B.dec(count) .. " LUNs")
end

local DATA_IN = {
  [INQUIRY] = inquiry,
  [0x03] = function(raw)
    return X.sense(raw, 0, #raw)
  end,
  [0x25] = function(raw)
    return capacity(raw, { { "last_lba", 0, 4 }, { "block_length", 4, 4 } }, 8)
  end,
  [MODE_SENSE_6] = function(raw)
    return mode(raw, 4, "mode_sense")
  end,
  [MODE_SENSE_10] = function(raw)
    return mode(raw, 8, "mode_sense")
  end,
  [0xA0] = report_luns,
}

--- Return what a command returned as a group, nil for data without a structure we know.
function X.data_in(cdb, raw)
  if #cdb == 0 or #raw == 0 then
    return nil
  end
  local opcode = B.u8(cdb, 0)
  if opcode == 0x9E then
    if #cdb > 1 and B.u8(cdb, 1) % 32 == 0x10 then
      return capacity(raw, { { "last_lba", 0, 8 }, { "block_length", 8, 4 } }, 12)
    end
    return nil
  end
  if opcode == INQUIRY and #cdb > 2 and B.u8(cdb, 1) % 2 == 1 then
    return vital_product_data(raw)
  end
  return DATA_IN[opcode] and DATA_IN[opcode](raw)
end

--- Return what a command was given as a group, nil for data without a structure we know.
function X.data_out(cdb, raw)
  if #cdb == 0 or #raw == 0 then
    return nil
  end
  local opcode = B.u8(cdb, 0)
  if opcode == MODE_SELECT_6 then
    return mode(raw, 4, "mode_select")
  elseif opcode == MODE_SELECT_10 then
    return mode(raw, 8, "mode_select")
  end
  return nil
end
