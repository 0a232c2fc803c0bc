-- SPDX-License-Identifier: Apache-2.0
-- Numbers out of strings of bytes. Offsets count from 0. No bit library and no integer division:
-- Wireshark 3.6 to 4.2 have Lua 5.2, later ones Lua 5.4, and both understand this.

local floor, byte, format = math.floor, string.byte, string.format

--- Return the bytes [at, at + size) of a string, fewer at its end.
function B.sub(raw, at, size)
  return raw:sub(at + 1, at + size)
end

--- Return a little-endian number of up to 6 bytes, nil if they are not all there.
function B.number(raw, at, size)
  if at < 0 or at + size > #raw then
    return nil
  end
  local value = 0
  for index = at + size, at + 1, -1 do
    value = value * 256 + byte(raw, index)
  end
  return value
end

function B.u8(raw, at)
  return byte(raw, at + 1)
end

function B.u16(raw, at)
  return B.number(raw, at, 2)
end

function B.u32(raw, at)
  return B.number(raw, at, 4)
end

--- Return bits [shift, shift + width) of a number.
function B.bits(value, shift, width)
  return floor(value / 2 ^ shift) % 2 ^ width
end

--- Whether all bits of a mask are set in a number; the mask is one bit or several.
function B.has(value, mask)
  while mask > 0 do
    if mask % 2 == 1 and value % 2 == 0 then
      return false
    end
    mask, value = floor(mask / 2), floor(value / 2)
  end
  return true
end

--- Return a whole number in decimal, however Lua stores it.
function B.dec(value)
  return format("%.0f", value)
end

--- Return a number below 2^53 as 0x and at least so many hexadecimal digits.
function B.hex(value, digits)
  local high = floor(value / 4294967296)
  local low = floor(value % 4294967296)
  if high > 0 then
    return format("0x%x%08x", high, low)
  end
  return format("0x%0" .. (digits or 1) .. "x", low)
end

function B.hex_bytes(raw)
  return (raw:gsub(".", function(letter)
    return format("%02x", byte(letter))
  end))
end

--- Return bytes as text without padding if that is what they are, else nil.
function B.text(raw)
  local body = raw:gsub("[%z ]+$", "")
  if body ~= "" and not body:find("[^\32-\126]") then
    return body
  end
  return nil
end
