--- Runs one request through the application: calls it, takes its body in whatever form, sends it on,
--- closes it, and turns every failure into a truthful end.
---
--- Called by the host once per request. The host only carries bytes; PEP 3333's rules live here and
--- in `head`. Library functions are locals because an application may replace the global ones.

local host, head, response, environment, file, loader, traceback, authorizer, after = ...

local callable, describe, place, text = loader.callable, traceback.describe, traceback.place, traceback.text
local is_file, prepare_file, end_file_after = file.is_file, file.prepare, file.end_after
local has_no_body, final_head, transmit, started, send_chunk, send_whole, finish =
  response.has_no_body, response.final_head, response.transmit, response.started, response.send_chunk, response.send_whole, response.finish
local fill, flush_errors = environment.fill, environment.flush_errors
local end_if_forked, send, log = host.end_if_forked, host.send, host.log
local concat, debug_getmetatable, find, format = table.concat, debug.getmetatable, string.find, string.format
local error, next, rawget, select, type, xpcall = error, next, rawget, select, type, xpcall
local setlocale, tell_once = os.setlocale, head.tell_once

-- What `serve` gives back; the host maps the numbers to its `Outcome`.
local COMPLETE, BROKEN, ABORTED = 0, 1, 2

-- What the host raises in a request that reaches its deadline.
local TIMED_OUT = host.timed_out

local ERROR_BODY = "Internal Server Error\n"
local ERROR_HEAD = "Status: 500 Internal Server Error\r\n" .. response.default_type .. "Content-Length: " .. #ERROR_BODY .. "\r\n\r\n"

---@type nibiru.Request?
local current
local application

-- The locale that the worker began with, which loading and start hooks may have chosen.
local locale

-- The forms of a body -----------------------------------------------------------------------------

--- `error` with a string that says what the body should have been.
local function bad_body(what)
  error("the body must be a string, an array of strings, a function or the values of a generic for, got " .. what, 0)
end

--- The first string among the loop's values.
local function first_string(...)
  for position = 1, select("#", ...) do
    local value = (select(position, ...))
    if type(value) == "string" then
      return value
    end
  end
  error("the body's function must return strings, got " .. type((...)), 0)
end

---@param request nibiru.Request
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
    end_file_after(body, given.length and given.length - request.sent)
    send_iterated(request, body)
  end
end

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

---@param request nibiru.Request
---@param ... any  what the application returned
local function deliver(request, ...)
  local body, state, control, closing = ...
  if not request.head then
    local kind = type(body)
    if kind == "number" or (kind == "string" and (type(state) == "table" or control ~= nil)) then
      -- The short form: status, headers, then any body.
      local given, problem = request.check(body, state)
      local _
      _, _, body, state, control, closing = ...
      request.body, request.closing = body, closing
      if not given then
        error(problem, 0)
      end
      request.head = given
    end
  end
  request.body, request.closing = body, closing
  local kind = type(body)
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
    -- What gives nil and a reason, such as `file_wrapper`, may have been returned as it was.
    error("the application returned no body (nil)" .. (type(state) == "string" and ": " .. state or ""), 0)
  else
    bad_body("a " .. kind)
  end
  finish(request)
end

---@return function? close  the body's own
local function close_of(body)
  local kind = type(body)
  if kind == "table" or (kind == "userdata" and rawget(debug_getmetatable(body) or {}, "__index") ~= nil) then
    return body.close
  end
end

--- Calls the body's `close`, and the closing value of a generic `for`, at most once each.
local function close_body()
  local request = current --[[@as nibiru.Request]]
  local body, closing = request.body, request.closing
  local close = close_of(body)
  -- The client need not wait for what the application tidies up. Before the body is forgotten, since a deadline that
  -- passes while the client is slow to read is met here, and the body is closed all the same.
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

-- start_response ----------------------------------------------------------------------------------

---@param request nibiru.Request
local function write(request, chunk)
  if type(chunk) ~= "string" then
    error("chunk must be a string, got " .. type(chunk), 3)
  elseif request.over then
    error("write was called after the request had ended", 3)
  elseif request.gone then
    error("the client went away", 3)
  end
  send_chunk(request, chunk)
  if request.gone then
    error("the client went away", 3)
  end
end

---@param request nibiru.Request
local function start(request, status, headers, exc_info)
  if request.over then
    error("start_response was called after the request had ended", 3)
  elseif request.head then
    if exc_info == nil then
      error("start_response was already called; only an error handler may call it again, with exc_info", 3)
    elseif request.head_sent then
      -- PEP 3333: too late for another head, so the error itself goes on.
      error(exc_info, 0)
    end
  end
  local given, problem = request.check(status, headers)
  if not given then
    error(problem, 3)
  end
  request.head = given
end

-- Serving -----------------------------------------------------------------------------------------

---@param request nibiru.Request
---@return string  such as `GET /path HTTP/1.1 (request 1a2b)`, escaped and without the secrets in the URI
local function name_of(request)
  local environ = request.environ
  local uri = request.uri
  if type(uri) ~= "string" then
    uri = text(rawget(environ, "SCRIPT_NAME") or "") .. text(rawget(environ, "PATH_INFO") or "")
  end
  local protocol = text(rawget(environ, "SERVER_PROTOCOL") or "-")
  local line = host.request_line(text(request.method or "-"), uri, protocol)
  return line .. " (request " .. text(request.id) .. ")"
end

--- Logs a problem, but for the deadline: that is in the log already, with its stack.
---@param request nibiru.Request
---@param what string
local function report(request, what, problem)
  problem = text(problem)
  if not find(problem, TIMED_OUT, 1, true) then
    log("error", name_of(request) .. what .. problem)
  end
end

--- Logs what a function of `after_response` raised.
local function report_after(problem)
  report(current --[[@as nibiru.Request]], ": error in after_response: ", problem)
end

--- Ends a request that cannot end as its application wished.
---@param request nibiru.Request
---@param problem any
local function fail(request, problem)
  if request.gone then
    end_if_forked()
    return
  end
  report(request, ": ", place(text(problem), application))
  end_if_forked()
  if not request.head_sent then
    request.sent = 0
    transmit(request, ERROR_HEAD, request.method ~= "HEAD" and ERROR_BODY or nil, false)
    request.whole_sent = true
  end
end

---@param request nibiru.Request
local function close(request)
  if request.body == nil and request.closing == nil then
    return
  end
  local ok, problem = xpcall(close_body, describe)
  if not ok and (request.body ~= nil or request.closing ~= nil) then
    -- The deadline, which comes once, was met before `close` was called.
    ok, problem = xpcall(close_body, describe)
  end
  if not ok then
    -- What the client got is not changed by it, so the response stands.
    report(request, ": error in close: ", problem)
  end
end

---@param request nibiru.Request
---@return integer outcome
local function outcome(request)
  if request.gone then
    return ABORTED
  end
  return request.whole_sent and COMPLETE or BROKEN
end

local function run()
  local request = current --[[@as nibiru.Request]]
  return deliver(request, application(request.environ, request.start_response))
end

local M = {}

---@param value function|table
function M.set_application(value)
  application = value
end

--- Serves one request to its end.
---@param environ table    the request's variables and `nibiru.request_id`
---@param ... any          what else `fill` is told of it
---@return integer outcome
function M.serve(environ, ...)
  local role = fill(environ, ...)
  local request = {
    environ = environ,
    id = environ["nibiru.request_id"],
    method = environ.REQUEST_METHOD,
    uri = environ.REQUEST_URI,
    check = role == "authorizer" and authorizer.check or head.check,
    head = nil,
    head_sent = false,
    sent = 0,
    whole_sent = false,
    gone = false,
    over = false,
    body = nil,
    closing = nil,
    start_response = nil,
  }
  request.start_response = function(status, headers, exc_info)
    start(request, status, headers, exc_info)
    return function(chunk)
      write(request, chunk)
    end
  end
  environ["nibiru.after_response"] = after.register
  locale = locale or setlocale()
  current = request
  after.begin()
  local ok, problem = xpcall(run, describe)
  if ok then
    request.whole_sent = true
  else
    fail(request, problem)
  end
  close(request)
  request.over = true
  flush_errors()
  return outcome(request)
end

--- Ends what `serve` did not: an interrupt hit it outside of everything that catches.
function M.tidy()
  local request = current
  if request and not request.over then
    close(request)
    request.over = true
    flush_errors()
  end
end

--- The locale is the process's, so a request that changed it would change numbers, cases and classes of characters for those that
--- follow. To ask for it is no system call, and allocates nothing.
local function put_locale_back()
  local now = setlocale()
  if now ~= locale then
    setlocale(locale)
    tell_once("locale", "the application has changed the locale to " .. now .. "; it is " .. locale .. " again for the next request")
  end
end

--- Runs what was registered with `nibiru.after_response`. Called again where an interrupt hit it between two
--- functions, it goes on.
function M.after_response()
  after.run(report_after)
  flush_errors()
  put_locale_back()
  current = nil
end

--- The end of a request whose application called `os.exit`: answered, logged, closed. The host then
--- ends the process, so no `pcall` of the application ever sees the call come back.
---@param message string  with the stack
---@return integer? outcome  nil when the response was already over
function M.abandon(message)
  local request = current
  if not request then
    log("error", message)
    return nil
  elseif request.over then
    log("error", name_of(request) .. ": " .. message)
    return nil
  end
  fail(request, message)
  close(request)
  flush_errors()
  return outcome(request)
end

return M
