-- SPDX-License-Identifier: Apache-2.0
-- Tables in host memory: status block, HRT, LCT, system table, status words, modules. The same
-- nodes as in i2o.decode.table_nodes.

local HRT_HEADER, LCT_HEADER, BUS_INFO_PLACE = 8, 12, 8
local MIN_MODULE, MAX_MODULE = LAYOUTS["tables.module_header"][2], 65536
local BUS_INFO = {
  [0x00] = "tables.hrt_bus_info_local", [0x01] = "tables.hrt_bus_info_isa",
  [0x02] = "tables.hrt_bus_info_eisa", [0x03] = "tables.hrt_bus_info_mca",
  [0x04] = "tables.hrt_bus_info_pci", [0x07] = "tables.hrt_bus_info_pci",
}

local function size_of(layout)
  return LAYOUTS[layout][2]
end

local function note(text)
  return N.derived("note", text)
end

--- Return the fields of a structure as a group, and a note where the data end before it.
function T.structure(label, layout, raw, start)
  start = start or 0
  local nodes, missing = N.fields(layout, raw, start)
  if missing then
    nodes[#nodes + 1] = note(math.max(0, #raw - start) .. " of " .. size_of(layout)
      .. " bytes are here: no " .. missing)
  end
  return N.group(label, nodes)
end

local function named(values, value, otherwise, digits)
  local name = N.names_text(values, value)
  return name ~= "" and name or otherwise .. " " .. B.hex(value, digits or 2)
end

local function count_text(count, word)
  return B.dec(count) .. " " .. word .. (count == 1 and "" or "s")
end

local function meaning_of_first(group)
  group.meaning = group.children[1] and group.children[1].meaning or ""
  return group
end

function T.status_block(raw)
  local group = T.structure("status_block", "tables.status_block", raw)
  local state, frames, words = B.u8(raw, 10), B.u32(raw, 16), B.u16(raw, 12)
  if state and frames and words then
    group.meaning = named("IopState", state, "state") .. ", " .. B.dec(frames) .. " frames of "
      .. 4 * words .. " bytes"
  end
  return group
end

function T.reset_status(raw)
  return meaning_of_first(T.structure("reset_status", "tables.iop_reset_status", raw))
end

function T.outbound_status(raw)
  return meaning_of_first(T.structure("outbound_status", "tables.outbound_init_status", raw))
end

function T.reclaim_list(raw)
  local nodes = N.fields("tables.outbound_init_reclaim_list", raw, 0, 8)
  local count = B.u32(raw, 0) or 0
  local here = math.min(count, math.floor(math.max(0, #raw - 8) / 4), N.MAX_ITEMS)
  local items = {}
  for index = 0, here - 1 do
    items[index + 1] = N.number("entries", raw, 8 + 4 * index, 4)
  end
  nodes[#nodes + 1] = N.group("entries", items)
  if here < count then
    nodes[#nodes + 1] = note(here .. " of " .. B.dec(count) .. " entries are here")
  end
  return N.group("reclaim_list", nodes)
end

--- Return the places of all entries that are wholly there.
local function places(raw, start, count, stride, size)
  local found = {}
  for index = 0, math.min(count, N.MAX_ITEMS) - 1 do
    local at = start + index * stride
    if at + size > #raw then
      break
    end
    found[#found + 1] = at
  end
  return found
end

--- Add a note on the entries of a table that are not shown.
local function add_missing(nodes, found, count, size, captured, capacity)
  if found >= count then
    return
  end
  local why = B.dec(captured) .. " of " .. B.dec(size) .. " bytes are here"
  if found >= N.MAX_ITEMS then
    why = "more than " .. N.MAX_ITEMS .. " are not shown"
  elseif capacity < size and captured >= capacity then
    why = "the host's buffer has " .. B.dec(capacity) .. " of " .. B.dec(size) .. " bytes"
  end
  nodes[#nodes + 1] = note(found .. " of " .. B.dec(count) .. " entries: " .. why)
end

local function hrt_entry(index, raw, at)
  local finish = at + size_of("tables.hrt_entry")
  local nodes = N.fields("tables.hrt_entry", raw, at, finish)
  local bus_type = B.u8(raw, at + 7)
  local layout = BUS_INFO[bus_type] or "tables.hrt_bus_info_other"
  local name = named("BusType", bus_type, "bus type")
  nodes[#nodes + 1] = N.group("bus", N.fields(layout, raw, at + BUS_INFO_PLACE, finish), name)
  return N.group("[" .. index .. "]", nodes, name)
end

function T.hrt(raw, capacity)
  local nodes, missing = N.fields("tables.hrt_header_and_first_entry", raw, 0, HRT_HEADER)
  if #raw < HRT_HEADER then
    nodes[#nodes + 1] = note(#raw .. " of 8 bytes of the header: no " .. missing)
    return N.group("hrt", nodes)
  end
  local count, words, size = B.u16(raw, 0), B.u8(raw, 2), size_of("tables.hrt_entry")
  local stride, wrong = 4 * words, nil
  if count > 0 and stride < size then
    wrong = N.problem("entry_length is " .. words .. " words, an HRT entry has 4", raw, 2)
    stride = size
  end
  local items = {}
  for index, at in ipairs(places(raw, HRT_HEADER, count, stride, size)) do
    items[index] = hrt_entry(index - 1, raw, at)
  end
  nodes[#nodes + 1] = N.group("entries", items)
  nodes[#nodes + 1] = wrong
  add_missing(nodes, #items, count, HRT_HEADER + count * stride, #raw, capacity)
  return N.group("hrt", nodes, count_text(count, "adapter"))
end

local function lct_entry(label, raw, at)
  local nodes, missing =
    N.fields("tables.lct_entry", raw, at, at + size_of("tables.lct_entry"))
  if missing then
    nodes[#nodes + 1] = note("the entry ends before " .. missing)
    return N.group(label, nodes)
  end
  local tid = B.bits(B.u32(raw, at), 16, 12)
  local class = B.u32(raw, at + 12) % 4096
  local user = B.u32(raw, at + 20) % 4096
  local user_name = N.meaning_of.target_address(user)
  return N.group(label, nodes, "TID " .. B.hex(tid, 3) .. " " .. N.meaning_of.class_id(class)
    .. ", user " .. (user_name ~= "" and user_name or B.hex(user, 3)))
end

--- Return one entry that stands in an event.
function T.lct_entry(raw, start)
  return lct_entry("lct_entry", raw, start)
end

function T.lct(raw, capacity)
  local nodes, missing = N.fields("tables.lct_header", raw, 0, LCT_HEADER)
  if #raw < LCT_HEADER then
    nodes[#nodes + 1] = note(#raw .. " of 12 bytes of the header: no " .. missing)
    return N.group("lct", nodes)
  end
  if nodes[#nodes].name == "lct_entry" then
    nodes[#nodes] = nil
  end
  local size, entry = 4 * B.u16(raw, 0), size_of("tables.lct_entry")
  local wrong
  if size < LCT_HEADER or (size - LCT_HEADER) % entry > 0 then
    wrong = N.problem("table_size says " .. size .. " bytes: no header and whole entries", raw, 0)
  end
  local count = math.floor(math.max(0, size - LCT_HEADER) / entry)
  local items = {}
  for index, at in ipairs(places(raw, LCT_HEADER, count, entry, entry)) do
    items[index] = lct_entry("[" .. index - 1 .. "]", raw, at)
  end
  nodes[#nodes + 1] = N.group("entries", items)
  nodes[#nodes + 1] = wrong
  add_missing(nodes, #items, count, size, #raw, capacity)
  return N.group("lct", nodes, count_text(count, "device") .. ", change indicator "
    .. B.dec(B.u32(raw, 8)))
end

function T.system_table(raw, capacity)
  local header, entry = size_of("tables.systab_header"), size_of("tables.systab_iop_entry")
  local nodes, missing = N.fields("tables.systab_header", raw, 0)
  if missing then
    nodes[#nodes + 1] = note(#raw .. " of " .. header .. " bytes of the header")
    return N.group("system_table", nodes)
  end
  local count, items = B.u8(raw, 0), {}
  for index, at in ipairs(places(raw, header, count, entry, entry)) do
    items[index] = N.group("[" .. index - 1 .. "]",
      N.fields("tables.systab_iop_entry", raw, at, at + entry),
      "IOP " .. B.hex(B.u32(raw, at + 4) % 4096, 3) .. " "
        .. named("IopState", B.u8(raw, at + 10), "state"))
  end
  nodes[#nodes + 1] = N.group("entries", items)
  add_missing(nodes, #items, count, header + count * entry, #raw, capacity)
  return N.group("system_table", nodes, count_text(count, "IOP"))
end

--- Return the header of a driver module, nil if the data do not look like one.
function T.software(raw)
  local size = B.u32(raw, 0) or 0
  if size < MIN_MODULE or size > MAX_MODULE then
    return nil
  end
  return T.structure("software", "tables.module_header", raw)
end
