--- Sends the response of a request: its head with the first bytes, its body in pieces or whole, and no more bytes than the head
--- promises.
---
--- Called by `body` and `start_response` with the application's values. `head` has checked the head.

local host, head, warnings = ...

local bodiless, check_length, warn_once = head.bodiless, head.check_length, warnings.once
local send, send_file = host.send, host.send_file
local error, format = error, string.format

-- Never HTML: a browser that is left to guess may find a script in a body that was meant as text.
local DEFAULT_TYPE = "Content-Type: text/plain; charset=utf-8\r\n"

-- Bytes of a head, at most. More than proxies take: nginx's fastcgi_buffer_size is 4 or 8 KiB unless it is raised.
local MAX_HEAD = host.max_head

--- Whether the response never carries a body (RFC 9110), so that none is sent and none is missed.
---@param request nibiru.Request
---@return boolean
local function has_no_body(request)
  return request.method == "HEAD" or bodiless(request.head.code)
end

--- Warns of a body that is dropped. With HEAD a body is usual; with other methods the application may not know the rule.
---@param request nibiru.Request
local function drop_body(request)
  if request.method ~= "HEAD" then
    warn_once("body", format("a response with status %d has no body; the one given is dropped", request.head.code))
  end
end

--- The head as it is sent, with its Content-Length and the blank line.
---@param request nibiru.Request
---@param length? integer  of a body that is known whole, in bytes
---@return string block
local function final_head(request, length)
  local given = request.head
  local code, block = given.code, given.block
  if not given["content-type"] and not bodiless(code) then
    block = block .. DEFAULT_TYPE
  end
  if code == 205 then
    -- RFC 9110 §15.3.6: no content. Proxies know only 204 and 304, so without this they wait for one.
    return block .. "Content-Length: 0\r\n\r\n"
  elseif code ~= 204 then
    -- RFC 9110 §8.6: no Content-Length in a 204.
    if given.length then
      return block .. "Content-Length: " .. given.length_text .. "\r\n\r\n"
    elseif length then
      return block .. "Content-Length: " .. length .. "\r\n\r\n"
    end
  end
  return block .. "\r\n"
end

--- Hands a head, a chunk of the body, or both to the host.
---@param request nibiru.Request
---@param block string?
---@param chunk string?
---@param flush boolean
local function transmit(request, block, chunk, flush)
  if block then
    if #block > MAX_HEAD then
      error(format("the response head has %d bytes, and may have %d", #block, MAX_HEAD), 0)
    end
    request.head_sent = true
  end
  if chunk then
    request.sent = request.sent + #chunk
  end
  if not send(block, chunk, flush) then
    request.gone = true
  end
end

--- Has the gateway send a part of a file as the rest of the body, with the head where that is still to be sent. Returns false where
--- the part must be sent otherwise; then nothing has been sent.
---@param request nibiru.Request
---@param handle file*
---@param offset integer
---@param length integer
---@return boolean taken
local function transmit_file(request, handle, offset, length)
  local block = not request.head_sent and final_head(request) or nil
  if block and #block > MAX_HEAD then
    return false
  end
  local taken, here = send_file(block, handle, offset, length)
  if taken then
    request.head_sent = true
    request.sent = request.sent + length
    request.gone = not here
  end
  return taken
end

--- The head that `start_response` was given.
---@param request nibiru.Request
---@return nibiru.Head
local function started(request)
  local given = request.head
  if not given then
    error("start_response was not called before the body", 0)
  end
  return given
end

--- Sends a chunk at once. The first chunk takes the head along.
---@param request nibiru.Request
---@param chunk string
local function send_chunk(request, chunk)
  if request.gone then
    return
  elseif chunk == "" then
    -- An empty chunk sends nothing: an application that waits asks so whether its client still does.
    request.gone = not send(nil, nil, true)
    return
  end
  local given = started(request)
  if given.grants then
    -- Consent is given at the end: an error on the way there must deny.
    return
  end
  local length = given.length
  if length and request.sent + #chunk > length and not bodiless(given.code) then
    error("the body is longer than its Content-Length of " .. given.length_text, 0)
  end
  if has_no_body(request) then
    if not request.head_sent then
      drop_body(request)
      transmit(request, final_head(request), nil, true)
    end
    return
  end
  transmit(request, not request.head_sent and final_head(request) or nil, chunk, true)
end

-- A deadline is met between two instructions of the interpreter, and LuaJIT compiles loops, calls of C functions in them
-- included. A stream passes here with every chunk, and so meets its deadlines whatever else is compiled.
if jit then
  jit.off(send_chunk)
end

--- Sends a whole body; or, after `write`, the rest of it.
---@param request nibiru.Request
---@param body string
local function send_whole(request, body)
  local given = started(request)
  if request.head_sent then
    return send_chunk(request, body)
  elseif given.grants then
    return transmit(request, given.block .. "\r\n", nil, false)
  end
  if has_no_body(request) then
    local length
    if body ~= "" then
      drop_body(request)
      -- An application may answer HEAD without a body, so only a body that is there gives a length.
      if not bodiless(given.code) then
        length = #body
        check_length(given, length)
      end
    end
    return transmit(request, final_head(request, length), nil, false)
  end
  check_length(given, #body)
  return transmit(request, final_head(request, #body), body ~= "" and body or nil, false)
end

--- Ends the response: the application gives no more bytes.
---@param request nibiru.Request
local function finish(request)
  if request.gone then
    return
  end
  if not request.head_sent then
    return send_whole(request, "")
  end
  local given = request.head
  if given.length and request.sent < given.length and not has_no_body(request) then
    error(format("the body ended after %d bytes, but its Content-Length is ", request.sent) .. given.length_text, 0)
  end
end

return {
  default_type = DEFAULT_TYPE,
  has_no_body = has_no_body,
  final_head = final_head,
  transmit = transmit,
  transmit_file = transmit_file,
  started = started,
  send_chunk = send_chunk,
  send_whole = send_whole,
  finish = finish,
}
