-- SPDX-License-Identifier: Apache-2.0
-- What a packet is, and its fields: the fixed part of messages, and what lists, commands and memory
-- say. The same nodes as in i2o.decode.frame.

local FAIL, MULTIPLE = 0x20, 0x10
local REQ_STATUS = 19

--- Return the number of the kind of devices that a class belongs to.
function D.kind_of(class)
  if class == nil then
    return 1
  end
  return KIND_OF_CLASS[class] or 2
end

--- Return what is known of a function: name, request, status, replies.
local function function_of(code, class)
  local kind = KINDS[D.kind_of(class)]
  return kind.functions[code] or kind.other
end

function D.function_name(code, class)
  return function_of(code, class).name or "unknown_" .. B.hex(code, 2)
end

--- Return the layout of a request, nil if its function is not known.
function D.request_layout(record)
  if record.is_short then
    return nil
  end
  if record.func == FUNCTION.PRIVATE_MESSAGE and #record.raw >= 20 then
    local private = PRIVATE[B.u32(record.raw, 16)]
    if private then
      return private
    end
  end
  return function_of(record.func, record.class).request
end

--- Return function and class by which to read a reply: DPT's private SCSI is SCSI.
function D.meant(record)
  if record.func == FUNCTION.PRIVATE_MESSAGE and record.request
     and D.request_layout(record.request) == "private.dpt_private_scsi_scb_exec.request" then
    return FUNCTION.SCSI_SCB_EXEC, CLASS.SCSI_PERIPHERAL
  end
  return record.func, record.class
end

--- Return the name of the values that DetailedStatusCode has in a reply.
function D.status_values(record)
  return function_of(D.meant(record)).status
end

local function reply_layout(record)
  if B.has(record.flags, FAIL) then
    return "common.failure_reply.reply"
  end
  local status = #record.raw >= 20 and B.u8(record.raw, REQ_STATUS) or 0
  if record.func == FUNCTION.PRIVATE_MESSAGE and record.request and status == 0 then
    local own = PRIVATE_REPLIES[D.request_layout(record.request)]
    if own and LAYOUTS[own][2] <= 4 * math.min(record.size_words, math.floor(#record.raw / 4)) then
      return own
    end
  end
  local way = REPLIES[function_of(D.meant(record)).replies]
  local chains = way[B.has(record.flags, MULTIPLE) and 2 or 1]
  local chain = chains.by_status[status] or chains.other
  local words = math.min(record.size_words, math.floor(#record.raw / 4))
  for _, name in ipairs(chain) do
    if LAYOUTS[name][2] <= 4 * words then
      return name
    end
  end
  return chain[#chain]
end

--- Return the name of a layout's fixed part, nil if the function is not known or it is no frame.
function D.layout(record)
  if record.is_short or record.kind == "dma" then
    return nil
  end
  if record.kind == "request" then
    return D.request_layout(record)
  end
  return reply_layout(record)
end

--- Return the name of a message; of DMA, that of the message which it belongs to.
function D.name(record)
  if record.kind == "dma" and not record.request then
    return "dma"
  end
  if record.func == FUNCTION.PRIVATE_MESSAGE then
    local request = record.kind == "request" and record or record.request
    local layout = request and D.request_layout(request)
    if layout then
      return LAYOUTS[layout][1]
    end
  end
  return D.function_name(record.func, record.class)
end

-- What values say ---------------------------------------------------------------------------------

local meaning = N.meaning_of

function meaning.target_address(value)
  return N.names_text("SpecialTid", value)
end

meaning.initiator_address = meaning.target_address

function meaning.class_id(value)
  local name = N.names_text("DeviceClass", value % 4096)
  return name ~= "" and name or "class " .. B.hex(value % 4096, 3)
end

function meaning.version_offset(value)
  local version, words = value % 16, B.bits(value, 4, 4)
  local text = ({ [0] = "I2O 1.0", [1] = "I2O 1.5" })[version] or "version " .. version
  return text .. ", " .. (words > 0 and "SGL at word " .. words or "no SGL")
end

function meaning.msg_flags(value)
  local text = N.names_text("MsgFlags", value)
  return text ~= "" and text or (value > 0 and B.hex(value) or "request")
end

function meaning.logical_byte_address(value)
  return "from byte " .. B.dec(value)
end

for _, name in ipairs({ "message_size", "table_size", "table_entry_size", "entry_length",
                        "inbound_msg_frame_size", "outbound_msg_frame_size",
                        "inbound_message_frame_size", "iop1_inbound_msg_frame_size",
                        "iop2_inbound_msg_frame_size" }) do
  meaning[name] = function(words)
    return N.human_size(4 * words)
  end
end
