--- Runs one request through the application: calls it, has its body sent and closed, and turns every failure into a truthful
--- end.
---
--- Called by the host once per request. The host only carries bytes; PEP 3333's rules are in this directory. Library functions
--- are locals because an application may replace the global ones.

local host, head, response, environment, traceback, authorizer, after, request_module, start_response, body, locale = ...

local describe, place, text = traceback.describe, traceback.place, traceback.text
local new, name, report = request_module.new, request_module.name, request_module.report
local deliver, close = body.deliver, body.close
local offer, transmit = start_response.offer, response.transmit
local fill, flush_errors = environment.fill, environment.flush_errors
local note_locale, restore_locale = locale.note, locale.restore
local end_if_forked, log = host.end_if_forked, host.log
local xpcall = xpcall

-- The outcomes that `serve` returns; the host maps the numbers to its `Outcome`.
local COMPLETE, BROKEN, ABORTED = 0, 1, 2

local ERROR_BODY = "Internal Server Error\n"
local ERROR_HEAD = "Status: 500 Internal Server Error\r\n" .. response.default_type .. "Content-Length: " .. #ERROR_BODY .. "\r\n\r\n"

-- The request that is running, as the field of a table. An upvalue would not do: the generational collector of Lua 5.4 makes
-- a value old at once when it is assigned to an old upvalue, and would keep each request until the next full collection.
---@type { request: nibiru.Request? }
local running = { request = nil }
local application

--- Logs an error of a function that was registered with `nibiru.after_response`.
---@param problem string
local function report_after(problem)
  report(running.request --[[@as nibiru.Request]], ": error in after_response: ", problem)
end

--- Ends a request that cannot end as its application wished: logged, and answered with `500` where no head has been sent.
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
---@return integer outcome
local function outcome(request)
  if request.gone then
    return ABORTED
  end
  return request.whole_sent and COMPLETE or BROKEN
end

local function run()
  local request = running.request --[[@as nibiru.Request]]
  return deliver(request, application(request.environ, request.start_response))
end

--- Leaves the request behind: all of it is done.
local function leave()
  after.close()
  restore_locale()
  running.request = nil
end

local M = {}

--- Sets the application that `serve` calls.
---@param value function|table
function M.set_application(value)
  application = value
end

--- Serves one request to its end.
---@param environ table    the request's variables and `nibiru.request_id`
---@param serial integer   this and the others: the arguments of `fill`
---@param length integer
---@param role integer
---@param data_length integer?
---@return integer outcome
---@return boolean over    nothing is left for `after_response`
function M.serve(environ, serial, length, role, data_length)
  local name = fill(environ, serial, length, role, data_length)
  local request = new(environ, name == "authorizer" and authorizer.check or head.check)
  offer(request)
  environ["nibiru.after_response"] = after.register
  note_locale()
  running.request = request
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
  local ended = outcome(request)
  if after.is_empty() then
    leave()
    return ended, true
  end
  return ended, false
end

--- Ends a request that `serve` did not end: an interrupt hit `serve` outside of every `xpcall`.
function M.tidy()
  local request = running.request
  if request and not request.over then
    close(request)
    request.over = true
    flush_errors()
  end
end

--- Runs the functions that were registered with `nibiru.after_response`. A second call, after an interrupt between two functions,
--- runs the rest of them. Not called where `serve` has left nothing to do.
function M.after_response()
  after.run(report_after)
  flush_errors()
  leave()
end

--- Ends a request whose application called `os.exit`: answered, logged, closed. The host then ends the process, so no `pcall`
--- of the application ever sees the call come back.
---@param message string  with the stack
---@return integer? outcome  nil when the response was already over
function M.abandon(message)
  local request = running.request
  if not request then
    log("error", message)
    return nil
  elseif request.over then
    log("error", name(request) .. ": " .. message)
    return nil
  end
  fail(request, message)
  close(request)
  flush_errors()
  return outcome(request)
end

return M
