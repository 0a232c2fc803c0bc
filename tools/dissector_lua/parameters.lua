-- SPDX-License-Identifier: Apache-2.0
-- Parameter operation and result lists with the names of groups and fields. The same nodes as in
-- i2o.decode.parameter_nodes.

local ALL_FIELDS = 0xFFFF
local FIELD_GET, LIST_GET, MORE_GET, SIZE_GET, TABLE_GET = 1, 2, 3, 4, 5
local FIELD_SET, LIST_SET, ROW_ADD, ROW_DELETE, TABLE_CLEAR = 6, 7, 8, 9, 10
local ROW_OPERATIONS = { [TABLE_GET] = true, [LIST_GET] = true, [MORE_GET] = true }

local function note(text)
  return N.derived("note", text)
end

local function group_text(number, group)
  return string.format("0x%04X", number) .. (group and " " .. LAYOUTS[group][1] or "")
end

local function operation_text(operation)
  local name = N.names_text("ParamOperation", operation.code):lower()
  if name == "" then
    name = "operation " .. B.hex(operation.code, 4)
  end
  return name .. " " .. group_text(operation.number, operation.group)
end

--- Return the rows of all fields of a group.
local function rows_of(group)
  local rows = {}
  for index = 3, #LAYOUTS[group] do
    rows[#rows + 1] = LAYOUTS[group][index]
  end
  return rows
end

local function size_of(row)
  return math.floor(row[4] / 8)
end

-- Stops reading a list; says why.
local function stop(text)
  error({ list_end = text }, 0)
end

-- Operations --------------------------------------------------------------------------------------

local function take_number(reader, nodes, name, size, called)
  if reader.at + size > #reader.raw then
    stop("the list ends before " .. (called or name))
  end
  local node = N.number(name, reader.raw, reader.at, size)
  reader.at = reader.at + size
  if nodes then
    nodes[#nodes + 1] = node
  end
  return node.value, node
end

local function take_value(reader, row)
  local size = size_of(row)
  if reader.at + size > #reader.raw then
    stop("the list ends before " .. row[1])
  end
  local node = N.parameter(row, reader.raw, reader.at, size)
  reader.at = reader.at + size
  return node
end

local function count_item(reader)
  reader.items = reader.items + 1
  if reader.items > N.MAX_ITEMS then
    stop("more than " .. N.MAX_ITEMS .. " fields, keys and rows: the rest is not shown")
  end
end

local function take_indexes(reader, nodes, group)
  local count, node = take_number(reader, nodes, "field_count", 2)
  local every = group and rows_of(group)
  if count == ALL_FIELDS then
    node.meaning = "all fields"
    return every
  end
  local items, indexes = {}, {}
  nodes[#nodes + 1] = N.group("field_indexes", items)
  for _ = 1, count do
    count_item(reader)
    local index, item = take_number(reader, items, "field_indexes", 2, "field_idx")
    if index == ALL_FIELDS then
      item.meaning = "all fields"
    elseif every and every[index + 1] then
      item.meaning = every[index + 1][1]
    end
    indexes[#indexes + 1] = index
  end
  if #indexes == 1 and indexes[1] == ALL_FIELDS then
    return every
  end
  if not every then
    return nil
  end
  local asked = {}
  for _, index in ipairs(indexes) do
    if not every[index + 1] then
      return nil
    end
    asked[#asked + 1] = every[index + 1]
  end
  return asked
end

local function take_values(reader, nodes, group, fields)
  local values = {}
  nodes[#nodes + 1] = N.group("values", values)
  if not fields then
    stop((group and "it has no such field" or "the group is not known")
      .. ", nor how wide the values are")
  end
  for _, row in ipairs(fields) do
    values[#values + 1] = take_value(reader, row)
  end
end

local function take_key(reader, group)
  if not group then
    stop("the group is not known, nor how wide its keys are")
  end
  local key = take_value(reader, rows_of(group)[1])
  key.label = "Key " .. key.label
  return key
end

local function take_rows(reader, nodes, count_name, group, fields, with_key)
  local count = take_number(reader, nodes, count_name, 2)
  local rows = {}
  nodes[#nodes + 1] = N.group("rows", rows)
  for _ = 1, count do
    count_item(reader)
    local row = {}
    rows[#rows + 1] = N.group("[" .. #rows .. "]", row)
    if with_key then
      row[1] = take_key(reader, group)
    end
    take_values(reader, row, group, fields)
  end
end

local function take_keys(reader, nodes, count_name, group)
  local count = take_number(reader, nodes, count_name, 2)
  local keys = {}
  nodes[#nodes + 1] = N.group("keys", keys, group and rows_of(group)[1][1])
  for _ = 1, count do
    count_item(reader)
    keys[#keys + 1] = take_key(reader, group)
  end
end

local function take_operation(reader, entry)
  local nodes = entry.children
  local code, node = take_number(reader, nodes, "operation", 2)
  local known = N.names_text("ParamOperation", code)
  node.meaning = known
  local number
  number, node = take_number(reader, nodes, "group_number", 2)
  local found = KINDS[reader.kind].groups[number]
  local group = found and found[1]
  if group then
    node.meaning = LAYOUTS[group][1]
    nodes[#nodes + 1] = N.derived("group", LAYOUTS[group][1])
  end
  local operation =
    { code = code, number = number, group = group, fields = group and rows_of(group) }
  reader.operations[#reader.operations + 1] = operation
  entry.meaning = operation_text(operation)
  if known == "" then
    stop(B.hex(code, 4) .. " is none of the ten operations")
  end
  if code ~= ROW_DELETE and code ~= TABLE_CLEAR then
    operation.fields = take_indexes(reader, nodes, group)
  end
  if code == FIELD_SET then
    take_values(reader, nodes, group, operation.fields)
  elseif code == ROW_ADD then
    take_rows(reader, nodes, "row_count", group, operation.fields, false)
  elseif code == LIST_SET then
    take_rows(reader, nodes, "key_count", group, operation.fields, true)
  elseif code == LIST_GET then
    take_keys(reader, nodes, "key_count", group)
  elseif code == ROW_DELETE then
    take_keys(reader, nodes, "row_count", group)
  end
  reader.at = reader.at + (reader.at - reader.start) % 2
end

--- Return the group `operations` and the operations themselves.
function P.operations(raw, class, start)
  local reader = {
    raw = raw, at = start, start = start, items = 0, operations = {}, kind = D.kind_of(class),
  }
  local nodes, missing = N.fields("params.param_operation_list_header", raw, start)
  if missing then
    nodes[#nodes + 1] = N.problem("the operation list ends before " .. missing, raw, start)
    return N.group("operations", nodes), reader.operations
  end
  local count = B.u16(raw, start)
  reader.at = start + 4
  local entries = {}
  nodes[#nodes + 1] = N.group("entries", entries)
  while #entries < count do
    local entry = N.group("[" .. #entries .. "]", {})
    local before = reader.at
    local ok, why = pcall(take_operation, reader, entry)
    if not ok and (type(why) ~= "table" or not why.list_end) then
      error(why, 0)
    end
    if ok or reader.at > before or #entry.children > 0 then
      entries[#entries + 1] = entry
    end
    if not ok then
      nodes[#nodes + 1] = N.problem("operation " .. #reader.operations .. " of " .. count .. ": "
        .. why.list_end)
      if reader.at < #raw then
        nodes[#nodes + 1] =
          N.bytes("rest", raw, reader.at, math.min(N.MAX_ITEMS, #raw - reader.at))
      end
      break
    end
  end
  local texts = {}
  for index = 1, math.min(3, #reader.operations) do
    texts[index] = operation_text(reader.operations[index])
  end
  return N.group("operations", nodes, table.concat(texts, ", ")), reader.operations
end

-- Results -----------------------------------------------------------------------------------------

local function list_end(text, is_whole)
  return is_whole and N.problem(text) or note(text)
end

--- Return the values of fields, packed one behind the other, as far as they go.
local function packed(label, fields, raw, at, finish)
  local leaves = {}
  for _, row in ipairs(fields) do
    local size = size_of(row)
    if at + size > finish then
      break
    end
    leaves[#leaves + 1] = N.parameter(row, raw, at, size)
    at = at + size
  end
  return N.group(label, leaves), at
end

local function add_table(nodes, raw, at, finish, fields)
  local count = B.u16(raw, at)
  nodes[#nodes + 1] = N.number("row_count", raw, at, 2)
  nodes[#nodes + 1] = N.number("more_flag", raw, at + 2, 2)
  at = at + 4
  if not fields then
    return at
  end
  local rows, size = {}, 0
  nodes[#nodes + 1] = N.group("rows", rows)
  for _, row in ipairs(fields) do
    size = size + size_of(row)
  end
  while #rows < math.min(count, N.MAX_ITEMS) and size > 0 and at + size <= finish do
    rows[#rows + 1], at = packed("[" .. #rows .. "]", fields, raw, at, finish)
  end
  if #rows < count then
    nodes[#nodes + 1] = note(#rows .. " of " .. count .. " rows are here")
  end
  return at
end

--- Add what a block holds behind its header.
local function add_payload(nodes, raw, at, finish, operation)
  local code = operation and operation.code
  local fields = operation and operation.fields
  if code == SIZE_GET and finish - at >= 4 then
    nodes[#nodes + 1] = N.number("size", raw, at, 4, "bytes")
    at = at + 4
  elseif ROW_OPERATIONS[code or 0] and finish - at >= 4 then
    at = add_table(nodes, raw, at, finish, fields)
  elseif code == FIELD_GET and fields then
    local values
    values, at = packed("values", fields, raw, at, finish)
    nodes[#nodes + 1] = values
    if #values.children < #fields then
      nodes[#nodes + 1] =
        note(#fields - #values.children .. " of " .. #fields .. " fields are not there")
      at = math.max(at, finish - 3)
    end
  end
  if finish - at > 3 or B.sub(raw, at, finish - at):find("[^%z]") then
    nodes[#nodes + 1] = N.bytes("data", raw, at, finish - at)
  end
end

local function words_text(words)
  return 4 * words .. " bytes"
end

--- Return one block and its size, 0 if nothing behind it can be found.
local function result(index, raw, at, operation, is_whole)
  local nodes = N.fields("params.param_modify_result", raw, at, nil, {
    block_size = words_text,
    error_info_size = function(words)
      return words > 0 and words_text(words) or ""
    end,
  })
  local status, info_words = B.u8(raw, at + 2), B.u8(raw, at + 3)
  local words = B.u16(raw, at)
  local size = 4 * words
  local status_text = N.names_text("ParamBlockStatus", status)
  if status_text == "" then
    status_text = "status " .. B.hex(status, 2)
  end
  local what = operation and group_text(operation.number, operation.group) or "result"
  local node =
    N.group("[" .. index .. "]", nodes, what .. " " .. (status == 0 and "ok" or status_text))
  if size < 4 + 4 * info_words then
    nodes[#nodes + 1] =
      N.problem("block_size is " .. words .. " words: no room for what it holds", raw, at)
    return node, 0
  end
  local finish, place = math.min(at + size, #raw), at + 4
  if operation and operation.group then
    nodes[#nodes + 1] = N.derived("group", LAYOUTS[operation.group][1])
  end
  if info_words > 0 then
    local info =
      N.fields("params.param_error_info", raw, place, math.min(finish, place + 4 * info_words))
    nodes[#nodes + 1] = N.group("error_info", info)
    place = place + 4 * info_words
  end
  if place < finish then
    add_payload(nodes, raw, place, finish, operation)
  end
  if at + size > #raw then
    nodes[#nodes + 1] =
      list_end("the list ends in this block, " .. at + size - #raw .. " bytes short", is_whole)
    return node, 0
  end
  return node, size
end

--- Return the group `results`.
-- @param operations what was asked, nil if it was not captured.
-- @param is_whole all that the IOP wrote was captured; else a cut list is no problem.
function P.results(raw, operations, is_whole)
  local nodes, missing = N.fields("params.param_result_list_header", raw, 0)
  if missing then
    nodes[#nodes + 1] = list_end("the result list ends before " .. missing, is_whole)
    return N.group("results", nodes)
  end
  local count, entries, at = B.u16(raw, 0), {}, 4
  nodes[#nodes + 1] = N.group("entries", entries)
  while #entries < count do
    if #entries >= N.MAX_ITEMS then
      nodes[#nodes + 1] = note(count .. " results, more than " .. N.MAX_ITEMS .. " not shown")
      break
    end
    if at + 4 > #raw then
      nodes[#nodes + 1] =
        list_end("the list ends after " .. #entries .. " of " .. count .. " results", is_whole)
      break
    end
    local operation = operations and operations[#entries + 1]
    local entry, size = result(#entries, raw, at, operation, is_whole)
    entries[#entries + 1] = entry
    if size == 0 then
      break
    end
    at = at + size
  end
  if not operations then
    nodes[#nodes + 1] = note("the operation list was not captured")
  elseif count > #operations then
    nodes[#nodes + 1] = N.problem(count .. " results of " .. #operations .. " operations", raw, 0)
  end
  local texts = {}
  for index = 1, math.min(3, #entries) do
    texts[index] = entries[index].meaning
  end
  return N.group("results", nodes, table.concat(texts, ", "))
end
