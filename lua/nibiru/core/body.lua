--- The body that an application returned: sends it in whatever form it has, and closes it.
---
--- Called by `server` once per request. What leaves, and when, is `response`'s to decide.

local host, response, file, loader, request_module, traceback = ...

local callable, describe, text = loader.callable, traceback.describe, traceback.text
local is_file, prepare_file, end_file_after, hand_over_file = file.is_file, file.prepare, file.end_after, file.hand_over
local has_no_body, final_head, transmit, transmit_file, started =
  response.has_no_body, response.final_head, response.transmit, response.transmit_file, response.started
local send_chunk, send_whole, finish = response.send_chunk, response.send_whole, response.finish
local report, send = request_module.report, host.send
local concat, debug_getmetatable, format = table.concat, debug.getmetatable, string.format
local error, next, rawget, select, type, xpcall = error, next, rawget, select, type, xpcall

-- Sending -----------------------------------------------------------------------------------------

--- Raises an error that names the forms of a body.
---@param what string  the value that is no body
local function bad_body(what)
  error("the body must be a string, an array of strings, a function or the values of a generic for, got " .. what, 0)
end

--- The first string among the loop's values.
---@return string
local function first_string(...)
  for position = 1, select("#", ...) do
    local value = (select(position, ...))
    if type(value) == "string" then
      return value
    end
  end
  error("the body's function must return strings, got " .. type((...)), 0)
end

--- The values of a generic `for`, one chunk each.
---@param request nibiru.Request
---@param next_chunk function|table
---@param state any
---@param control any
local function send_iterated(request, next_chunk, state, control)
  while not request.gone do
    local first, second, third = next_chunk(state, control)
    if first == nil then
      break
    end
    control = first
    send_chunk(request, type(first) == "string" and first or first_string(first, second, third))
    -- Once the head of a bodiless response is out, the other chunks have no reader.
    if request.head_sent and has_no_body(request) then
      break
    end
  end
end

--- A file, by blocks; or nothing but a head, by which the proxy sends it.
---@param request nibiru.Request
---@param body nibiru.FileBody
local function send_file(request, body)
  local given = started(request)
  if not request.head_sent then
    local order = prepare_file(body, given)
    if order then
      given.length = nil
      given.block = given.block .. order
      return transmit(request, final_head(request), nil, false)
    end
  end
  -- A head without a body needs nothing from the file; `finish` sends it.
  if not has_no_body(request) then
    local left = given.length and given.length - request.sent
    if left and left > 0 and not request.gone and hand_over_file(body, left, transmit_file, request) then
      return
    end
    end_file_after(body, left)
    send_iterated(request, body)
  end
end

--- The strings of an array as one.
---@param body table
---@return string
local function join(body)
  local first = body[1]
  if type(first) == "string" and body[2] == nil then
    return first
  end
  local strings, count = {}, 0
  while first ~= nil do
    count = count + 1
    if type(first) ~= "string" then
      error(format("the body must be an array of strings, but body[%d] is a ", count) .. type(first), 0)
    end
    strings[count] = first
    first = body[count + 1]
  end
  if count == 0 then
    -- `{ status = 200, body = "…" }` from another framework must not pass as an empty page.
    for key in next, body do
      if key ~= "close" and debug_getmetatable(body) == nil then
        bad_body("a table without strings, but with the key " .. text(key))
      end
    end
  end
  return concat(strings)
end

local M = {}

--- Sends what the application returned: a body, or status, headers and a body.
---@param request nibiru.Request
---@param body any  the first of the values that the application returned
---@param state any
---@param control any
---@param closing any
---@param fifth any
---@param sixth any
function M.deliver(request, body, state, control, closing, fifth, sixth)
  local kind = type(body)
  if not request.head then
    if kind == "number" or (kind == "string" and (type(state) == "table" or control ~= nil)) then
      -- The short form: status, headers, then any body.
      local given, problem = request.check(body, state)
      body, state, control, closing = control, closing, fifth, sixth
      kind = type(body)
      request.body, request.closing = body, closing
      if not given then
        error(problem, 0)
      end
      request.head = given
    end
  end
  request.body, request.closing = body, closing
  if kind == "string" then
    send_whole(request, body)
  elseif kind == "table" and is_file(body) then
    send_file(request, body)
  elseif callable(body) then
    send_iterated(request, body, state, control)
  elseif kind == "table" then
    send_whole(request, join(body))
  elseif kind == "nil" then
    if not request.head then
      error("the application returned nothing and did not call start_response", 0)
    end
    -- The values of a failed call, nil and a reason, may have been returned as they were: `file_wrapper` gives such.
    error("the application returned no body (nil)" .. (type(state) == "string" and ": " .. state or ""), 0)
  else
    bad_body("a " .. kind)
  end
  finish(request)
end

-- Closing -----------------------------------------------------------------------------------------

---@param body any
---@return function? close  the body's own
local function close_of(body)
  local kind = type(body)
  if kind == "table" or (kind == "userdata" and rawget(debug_getmetatable(body) or {}, "__index") ~= nil) then
    return body.close
  end
end

-- The request whose body is being closed: the `xpcall` of Lua 5.1 passes no arguments on. A field and not an upvalue, as
-- `running` in `server`.
---@type { request: nibiru.Request? }
local current = { request = nil }

--- Calls the body's `close`, and the closing value of a generic `for`, at most once each.
local function close_current()
  local request = current.request --[[@as nibiru.Request]]
  local body, closing = request.body, request.closing
  local close = close_of(body)
  -- The client need not wait for what the application tidies up. Sent before the body is forgotten: a deadline that passes
  -- while the client is slow to read is met here, and the body is closed all the same.
  if close ~= nil and request.head_sent and not request.gone then
    send(nil, nil, true)
  end
  request.body, request.closing = nil, nil
  if close ~= nil then
    close(body)
  end
  if closing ~= nil then
    local metatable = debug_getmetatable(closing)
    local closer = type(metatable) == "table" and rawget(metatable, "__close")
    if closer then
      closer(closing, nil)
    end
  end
end

--- Closes the body of a request. An error is logged: the client has its response, so the response stands.
---@param request nibiru.Request
function M.close(request)
  local body = request.body
  if request.closing == nil and (body == nil or type(body) == "string") then
    -- Nothing to call.
    request.body = nil
    return
  end
  current.request = request
  local ok, problem = xpcall(close_current, describe)
  if not ok and (request.body ~= nil or request.closing ~= nil) then
    -- The deadline, which comes once, was met before `close` was called.
    ok, problem = xpcall(close_current, describe)
  end
  current.request = nil
  if not ok then
    report(request, ": error in close: ", problem)
  end
end

return M
