-- SPDX-License-Identifier: Apache-2.0
-- Scatter/gather lists by the truth table of I2O 1.5, and the host memory that a request points to.
-- The same rules and bounds as i2o.frames.sgl_walk and i2o.frames.host_ranges.

S.MAX_ELEMENTS = 32768
S.MAX_PIECES = 65536
S.MAX_CHAINS = 1024
S.MAX_CHAINED_BYTES = 2 ^ 24
S.MAX_RANGES = 4096

local SGL_KINDS = {
  [0x00] = "ignore", [0x04] = "transport", [0x08] = "bit_bucket", [0x48] = "bit_bucket",
  [0x0C] = "immediate", [0x4C] = "immediate", [0x30] = "chain", [0x38] = "chain",
  [0x40] = "long_transaction", [0x70] = "short_transaction", [0x7C] = "attributes",
}
for _, first in ipairs({ 0x10, 0x50 }) do
  for flags = first, first + 0x0C, 4 do
    SGL_KINDS[flags] = "simple"
    SGL_KINDS[flags + 0x10] = "page_list"
  end
end
local BUFFER_KINDS = { bit_bucket = true, immediate = true, simple = true, page_list = true }
local ADDRESS_KINDS = { simple = true, page_list = true }

local function sgl_error(here, message)
  local where = "SGL at byte " .. B.dec(here.at)
  if here.address then
    where = where .. " of the list at " .. B.hex(here.address, 8)
  end
  error({ sgl = where .. ": " .. message }, 0)
end

local function is_power_of_two(value)
  if value < 1 then
    return false
  end
  while value % 2 == 0 do
    value = value / 2
  end
  return value == 1
end

local function check_range(reader, here, address, length)
  if address + length > 2 ^ (8 * reader.address_size) then
    sgl_error(here, B.dec(length) .. " bytes at " .. B.hex(address) .. " do not fit "
      .. 8 * reader.address_size .. "-bit addresses")
  end
end

-- An address of 8 bytes may lose its lowest bits above 2^53, where nothing real is; what is shown
-- of it comes from the bytes.
local function read_address(raw, at, size)
  if size == 8 then
    return B.u32(raw, at) + 2 ^ 32 * B.u32(raw, at + 4)
  end
  return B.u32(raw, at)
end

local function take_contexts(reader, here, element, at, count)
  local size = count * reader.context_size
  if here.finish - at < size then
    sgl_error(here, count .. " contexts of " .. reader.context_size .. " bytes do not fit")
  end
  for index = 0, count - 1 do
    local place = at + index * reader.context_size
    element.contexts[index + 1] =
      { at = place, size = reader.context_size, raw = B.sub(here.raw, place, reader.context_size) }
  end
  return at + size
end

local function take_data(here, element, at, length)
  if element.last and element.kind == "long_transaction" then
    length = math.min(length, here.finish - at)
  end
  if here.finish - at < length then
    sgl_error(here, element.kind .. " element of " .. B.dec(length) .. " bytes, the list has "
      .. B.dec(here.finish - at) .. " left")
  end
  element.data, element.data_at = B.sub(here.raw, at, length), at
  return at + math.ceil(length / 4) * 4
end

local function body_size(here, element)
  local words = B.bits(element.count, 16, 8)
  if words == 0 then
    sgl_error(here, element.kind .. " element of 0 words, expected at least 1")
  end
  return 4 * (words - 1)
end

local function read_contexts(reader, here, element, at)
  local words = element.flags % 4
  if words == 0 and (element.kind == "bit_bucket" or element.kind == "long_transaction") then
    words = (not element.last or here.finish - at >= reader.context_size) and 1 or 0
  end
  return take_contexts(reader, here, element, at, words)
end

local function read_pages(reader, here, element, at)
  local page, left = reader.page_size, element.count
  while left > 0 do
    reader.pages = reader.pages + 1
    if reader.pages > S.MAX_PIECES then
      sgl_error(here, "more than " .. S.MAX_PIECES .. " pages")
    end
    if here.finish - at < reader.address_size then
      sgl_error(here, "page list of " .. B.dec(element.count) .. " bytes lacks addresses: "
        .. B.dec(left) .. " bytes are left after " .. #element.pieces .. " pages of " .. page)
    end
    local address = read_address(here.raw, at, reader.address_size)
    local within = B.u32(here.raw, at) % page -- of the lower half: doubles are exact there
    if within > 0 and #element.pieces > 0 then
      sgl_error(here, "page " .. #element.pieces .. " at " .. B.hex(address)
        .. ": only the first may be unaligned")
    end
    local length = math.min(left, page - within)
    element.pieces[#element.pieces + 1] =
      { address = address, length = length, at = at, size = reader.address_size }
    at = at + reader.address_size
    left = left - length
  end
  return at
end

local READ = {}

function READ.simple(reader, here, element, at)
  at = read_contexts(reader, here, element, at)
  if here.finish - at < reader.address_size then
    sgl_error(here, element.kind .. " element without its address")
  end
  local address = read_address(here.raw, at, reader.address_size)
  check_range(reader, here, address, element.count)
  if element.count > 0 or element.kind == "chain" then
    element.pieces[1] =
      { address = address, length = element.count, at = at, size = reader.address_size }
  end
  if element.kind == "chain" and element.count == 0 then
    sgl_error(here, "chain to a list of 0 bytes, expected its length in the count")
  end
  return at + reader.address_size
end

READ.chain = READ.simple

function READ.page_list(reader, here, element, at)
  return read_pages(reader, here, element, read_contexts(reader, here, element, at))
end

function READ.bit_bucket(reader, here, element, at)
  return read_contexts(reader, here, element, at)
end

function READ.immediate(reader, here, element, at)
  return take_data(here, element, read_contexts(reader, here, element, at), element.count)
end

READ.long_transaction = READ.immediate

function READ.attributes(reader, here, element, at)
  at = take_data(here, element, at, body_size(here, element))
  element.attribute_flags = element.count % 65536
  if #element.data > 0 then
    element.page_size = B.u32(element.data, 0)
    if not is_power_of_two(element.page_size) then
      sgl_error(here, "page size " .. B.dec(element.page_size) .. ", expected a power of two")
    end
    reader.page_size = element.page_size
  end
  reader.address_size = B.has(element.attribute_flags, 0x0002) and 8 or 4
  reader.context_size = B.has(element.attribute_flags, 0x0004) and 8 or reader.context_size_min
  return at
end

function READ.short_transaction(reader, here, element, at)
  local room = body_size(here, element)
  local words = math.max(1, element.flags % 4)
  local contexts = math.min(words, B.bits(room, reader.context_size == 8 and 3 or 2, 24))
  at = take_contexts(reader, here, element, at, contexts)
  return take_data(here, element, at, room - contexts * reader.context_size)
end

function READ.transport(_, here, element, at)
  return take_data(here, element, at, element.count)
end

function READ.ignore(_, _, element, at)
  return at + math.ceil(element.count / 4) * 4
end

local function read_element(reader, here)
  local flags = B.u8(here.raw, here.at + 3)
  local kind = SGL_KINDS[flags % 0x80 - flags % 4]
  if not kind then
    sgl_error(here, "flags " .. B.hex(flags, 2) .. " are no element type of I2O 1.5")
  end
  local element = {
    kind = kind, offset = here.at, address = here.address, depth = here.depth, flags = flags,
    count = B.number(here.raw, here.at, 3), contexts = {}, pieces = {}, data = "",
    last = flags >= 0x80,
    end_of_buffer = B.bits(flags, 6, 1) == 1 and BUFFER_KINDS[kind] or false,
    is_local = B.bits(flags, 3, 1) == 1 and (ADDRESS_KINDS[kind] or kind == "chain") or false,
  }
  if kind == "immediate" then
    element.out = true
  elseif ADDRESS_KINDS[kind] then
    element.out = B.bits(flags, 2, 1) == 1
  end
  here.at = math.min(READ[kind](reader, here, element, here.at + 4), here.finish)
  return element
end

--- Return the elements of a list and what is wrong with it, nil if nothing is.
-- @param read_host reads chained lists: read_host(address, length) returns bytes, or nil; nil: they
--   are not followed.
function S.elements(raw, start, finish, context_words64, read_host)
  local found = {}
  if finish > #raw then
    return found,
      "the list is bytes " .. start .. " to " .. finish .. " of a frame that has " .. #raw
  end
  local context_size = context_words64 and 8 or 4
  local reader = {
    page_size = 4096, pages = 0, address_size = 4,
    context_size = context_size, context_size_min = context_size,
  }
  local here = { raw = raw, at = start, finish = finish, depth = 0 }
  local resume, path, chains, chained_bytes = {}, {}, 0, 0
  local function walk()
    while true do
      if here.finish - here.at < 4 then
        if #resume == 0 then
          return
        end
        here = table.remove(resume)
        while #path > here.depth do
          table.remove(path)
        end
      else
        if #found >= S.MAX_ELEMENTS then
          sgl_error(here, "more than " .. S.MAX_ELEMENTS .. " elements")
        end
        local started = here.at
        local element = read_element(reader, here)
        found[#found + 1] = element
        if element.last then
          here.at = here.finish
        end
        if element.kind == "chain" and read_host then
          local at_element = { at = started, address = here.address }
          if element.is_local then
            sgl_error(at_element, "a chained list in the IOP's own memory cannot be read")
          end
          local piece = element.pieces[1]
          chains, chained_bytes = chains + 1, chained_bytes + piece.length
          for _, address in ipairs(path) do
            if address == piece.address then
              sgl_error(at_element,
                "the chain comes back to the list at " .. B.hex(piece.address, 8))
            end
          end
          if chains > S.MAX_CHAINS or chained_bytes > S.MAX_CHAINED_BYTES then
            sgl_error(at_element, "more than " .. S.MAX_CHAINS .. " chained lists or "
              .. B.dec(S.MAX_CHAINED_BYTES) .. " bytes of them")
          end
          local chained = read_host(piece.address, piece.length)
          if not chained then
            sgl_error(at_element,
              "the chained list cannot be read: it was not captured")
          end
          resume[#resume + 1] = here
          path[#path + 1] = piece.address
          here = {
            raw = chained, at = 0, finish = piece.length, address = piece.address, depth = #path,
          }
        end
      end
    end
  end
  local ok, problem = pcall(walk)
  if ok then
    return found, nil
  end
  if type(problem) == "table" and problem.sgl then
    return found, problem.sgl
  end
  error(problem, 0)
end

--- Return the byte at which a request's list starts, 0 if it has none.
function S.start(raw)
  if #raw < 8 then
    return 0
  end
  local words = B.bits(B.u8(raw, 0), 4, 4)
  if B.u8(raw, 7) == FUNCTION.EXEC_OUTBOUND_INIT then
    words = math.max(words, 6)
  end
  return 4 * words
end

--- Return the pieces of host memory that a request points to: {buffer, offset, address, length}.
function S.host_ranges(raw, read_host)
  local found = {}
  if #raw < 16 then
    return found
  end
  local code = B.u8(raw, 7)
  if code == FUNCTION.EXEC_STATUS_GET or code == FUNCTION.EXEC_IOP_RESET then
    local address, length = B.u32(raw, 24) or 0, 4
    if code == FUNCTION.EXEC_STATUS_GET then
      local size = LAYOUTS["tables.status_block"][2]
      length = B.u32(raw, 32) or 0
      length = length == 0 and size or math.min(length, size)
    end
    if address ~= 0 then
      found[1] = { buffer = 0, offset = 0, address = address, length = length }
    end
    return found
  end
  local start = S.start(raw)
  if start == 0 then
    return found
  end
  local buffer, offset = 0, 0
  local elements = S.elements(raw, start, #raw, B.bits(B.u8(raw, 1), 1, 1) == 1, read_host)
  for _, element in ipairs(elements) do
    if ADDRESS_KINDS[element.kind] then
      for _, piece in ipairs(element.pieces) do
        if not element.is_local and piece.length > 0 then
          found[#found + 1] =
            { buffer = buffer, offset = offset, address = piece.address, length = piece.length }
        end
        offset = offset + piece.length
      end
    elseif element.kind == "immediate" or element.kind == "bit_bucket" then
      offset = offset + element.count
    elseif element.kind == "chain" and not element.is_local then
      local piece = element.pieces[1]
      found[#found + 1] =
        { buffer = -1, offset = 0, address = piece.address, length = piece.length }
    end
    if element.end_of_buffer then
      buffer, offset = buffer + 1, 0
    end
    if #found >= S.MAX_RANGES then
      break
    end
  end
  while #found > S.MAX_RANGES do
    table.remove(found)
  end
  return found
end
