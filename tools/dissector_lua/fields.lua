-- SPDX-License-Identifier: Apache-2.0
-- Nodes: what a packet says, as a tree of fields with their places, before Wireshark shows it.
--
-- A node has: name (of a ProtoField, without "i2o.") or nil for a group, label, value, meaning, raw
-- (the string that at and size are places in, nil if it has no place), at, size, bit and width (of
-- fields that are no whole bytes), children, problem.

N.MAX_ITEMS = 4096

local HEX_WORDS = {}
for word in ("offset flags address context mfa severity code status id function mask indicator "
             .. "capabilities class tid key identity location low high opcode asc ascq "
             .. "tag ignore cq")
    :gmatch("%a+") do
  HEX_WORDS[word] = true
end

--- Whether a number with that name is an address, an identifier or flags.
function N.is_hex(name)
  local found = false
  for word in name:gsub("^.*%.", ""):gmatch("[^_]+") do
    if word == "count" then
      return false
    end
    found = found or HEX_WORDS[word] or false
  end
  return found
end

local UNITS = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" }

--- Return a number of bytes for people: 512 bytes, 32 MiB, 1.4 GiB.
function N.human_size(count)
  if count < 1024 then
    return B.dec(count) .. (count == 1 and " byte" or " bytes")
  end
  local power = 0
  while count >= 1024 and power < #UNITS do
    count, power = count / 1024, power + 1
  end
  if count >= 100 or count == math.floor(count) then
    return string.format("%.0f %s", count, UNITS[power])
  end
  return string.format("%.1f %s", count, UNITS[power])
end

--- Return what a class of value names calls a value, A|B for flags; empty if it has no name.
function N.names_text(values_name, value)
  local values = VALUES[values_name]
  if not values then
    return ""
  end
  if values[1] == "halves" then
    if value == 0 then
      return "SUCCESS"
    end
    local high, low = value - value % 256, value % 256
    local parts = {}
    if high > 0 then
      local text = N.names_text(values[2][1], high)
      parts[1] = text ~= "" and text or B.hex(high, 4)
    end
    if low > 0 then
      local text = N.names_text(values[2][2], low)
      parts[#parts + 1] = text ~= "" and text or B.hex(low, 4)
    end
    return table.concat(parts, "|")
  end
  if values[1] == "numbers" then
    for _, member in ipairs(values[2]) do
      if member[1] == value then
        return member[2]
      end
    end
    return ""
  end
  local found, rest = {}, value
  for _, member in ipairs(values[2]) do
    if B.has(rest, member[1]) then
      found[#found + 1] = member
      rest = rest - member[1]
    end
  end
  if #found == 0 then
    return ""
  end
  table.sort(found, function(one, other)
    return one[1] < other[1]
  end)
  local names = {}
  for index, member in ipairs(found) do
    names[index] = member[2]
  end
  return table.concat(names, "|") .. (rest > 0 and "|" .. B.hex(rest) or "")
end

-- Functions of other parts give the meaning of fields by name; see the end of decode.lua.
N.meaning_of = {}

local SIZE_WORDS = { "size", "capacity", "memory", "space", "mem_total", "mem_free" }

local function is_size(name)
  if name:find("word") or name:find("count") or name:find("index") then
    return name:find("byte_count") ~= nil or name == "transfer_count"
  end
  for _, word in ipairs(SIZE_WORDS) do
    if name:find(word, 1, true) then
      return true
    end
  end
  return false
end

local function has_word(name, word)
  return ("_" .. name .. "_"):find("_" .. word .. "_", 1, true) ~= nil
end

--- Set while nobody will see what fields mean: only their values are wanted then.
N.is_quiet = false

local function usual_meaning(name, value, values_name)
  local last = name:gsub("^.*%.", "")
  local special = N.meaning_of[last]
  if special then
    return special(value)
  end
  if values_name then
    return N.names_text(values_name, value)
  end
  if has_word(last, "tid") then
    return N.meaning_of.target_address(value)
  end
  if is_size(last) and value >= 1024 then
    return N.human_size(value)
  end
  return ""
end

local function meaning_of(row, value, meanings)
  if N.is_quiet then
    return ""
  end
  local special = meanings and meanings[row[1]]
  if special then
    return special(value)
  end
  return usual_meaning(row[1], value, row[7])
end

--- Return one field of a layout; nil if not all of it is there, or, of bytes, what is there.
-- @param row {name, byte, bit, width, kind, label, values}
local function field(row, raw, start, limit, meanings)
  local name, at, bit, width, kind = row[1], start + row[2], row[3], row[4], row[5]
  local size = math.ceil((bit + width) / 8)
  local node = { name = name, label = row[6], raw = raw, at = at, size = size, meaning = "" }
  if at + size > limit then
    if kind == "b" and at < limit then
      node.size = limit - at
      node.value = B.sub(raw, at, node.size)
      return node, true
    end
    return nil, true
  end
  if kind == "b" then
    node.value = B.sub(raw, at, size)
    if not N.is_quiet and not name:find("address", 1, true)
       and not name:find("reserved", 1, true) then
      node.meaning = B.text(node.value) or ""
    end
    return node, false
  end
  if width > 48 then
    node.high, node.value = B.u32(raw, at + 4), B.u32(raw, at)
    node.meaning = meaning_of(row, node.high * 4294967296 + node.value, meanings)
    return node, false
  end
  local value = B.bits(B.number(raw, at, size), bit, width)
  if kind == "s" and value >= 2 ^ (width - 1) then
    value = value - 2 ^ width
  end
  node.value = value
  if bit > 0 or width % 8 > 0 then
    node.bit, node.width = bit, width
  end
  node.meaning = meaning_of(row, value, meanings)
  return node, false
end

--- Return the fields of a layout that are there, and whether one is missing or cut.
-- @param finish byte behind what belongs to it, #raw if nil.
function N.fields(layout_name, raw, start, finish, meanings)
  local layout = LAYOUTS[layout_name]
  local limit = math.min(finish or #raw, #raw)
  local nodes = {}
  for index = 3, #layout do
    local node, is_cut = field(layout[index], raw, start, limit, meanings)
    nodes[#nodes + 1] = node
    if is_cut then
      return nodes, layout[index][1]
    end
  end
  return nodes, nil
end

--- Return the parameter field that row says, out of its own bytes.
function N.parameter(row, raw, at, size)
  local moved = { row[1], 0, 0, size * 8, row[5], row[6], row[7] }
  return (field(moved, raw, at, at + size))
end

--- Return the row of a layout's field, nil if it has none.
function N.row_of(layout_name, name)
  local layout = LAYOUTS[layout_name]
  for index = 3, #layout do
    if layout[index][1] == name then
      return layout[index]
    end
  end
  return nil
end

function N.number(name, raw, at, size, meaning, value)
  return { name = name, raw = raw, at = at, size = size, meaning = meaning or "",
           value = value or B.number(raw, at, size) }
end

--- Return a value that stands nowhere.
function N.derived(name, value, meaning)
  return { name = name, value = value, meaning = meaning or "" }
end

function N.bytes(name, raw, at, size, meaning)
  return { name = name, raw = raw, at = at, size = size, meaning = meaning or "",
           value = B.sub(raw, at, size) }
end

function N.group(label, children, meaning)
  return { label = label, children = children, meaning = meaning or "" }
end

function N.problem(text, raw, at)
  return { problem = text, raw = raw, at = at, size = at and 1 }
end
