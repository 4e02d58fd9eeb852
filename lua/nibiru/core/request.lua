--- The request that is running: its state, its name in the log, and the report of a problem in it.
---
--- Called by `server`, which makes one for each request. Never sends anything.

local host, traceback = ...

local text = traceback.text
local find, log, request_line = string.find, host.log, host.request_line
local rawget, type = rawget, type

-- The error that the host raises in a request at its deadline.
local TIMED_OUT = host.timed_out

---@class nibiru.Request
---@field environ table
---@field start_response function  set by `start_response.offer`
---@field id string
---@field method any            REQUEST_METHOD as the proxy sent it, whatever the application does to environ
---@field uri any               REQUEST_URI as the proxy sent it
---@field check fun(status: any, headers: any): nibiru.Head?, string?  the rules for a head in the request's role
---@field head nibiru.Head?     the head that start_response was given last
---@field head_sent true?
---@field sent integer          body bytes sent
---@field whole_sent true?      the response is complete; nothing may follow
---@field gone boolean?         the client went away
---@field over true?            the request has ended; start_response and write may not be called any more
---@field body any              the returned body, until its close was called
---@field closing any           the closing value of a generic `for`

local M = {}

--- The state of a request of which nothing has been sent.
---@param environ table
---@param check fun(status: any, headers: any): nibiru.Head?, string?
---@return nibiru.Request
function M.new(environ, check)
  -- Nine fields and more give the table room for sixteen at once. Most of the other fields stay nil.
  return {
    environ = environ,
    id = environ["nibiru.request_id"],
    method = environ.REQUEST_METHOD,
    uri = environ.REQUEST_URI,
    check = check,
    sent = 0,
    head_sent = nil,
    whole_sent = nil,
    over = nil,
  }
end

--- The name of a request in the log, such as `GET /path HTTP/1.1 (request 1a2b)`: escaped, and without the secrets in the URI.
---@param request nibiru.Request
---@return string
function M.name(request)
  local environ = request.environ
  local uri = request.uri
  if type(uri) ~= "string" then
    uri = text(rawget(environ, "SCRIPT_NAME") or "") .. text(rawget(environ, "PATH_INFO") or "")
  end
  local protocol = text(rawget(environ, "SERVER_PROTOCOL") or "-")
  local line = request_line(text(request.method or "-"), uri, protocol)
  return line .. " (request " .. text(request.id) .. ")"
end
local name = M.name

--- Logs a problem of a request under its name. A deadline is left out: the host has logged it with its stack.
---@param request nibiru.Request
---@param what string   stands between the name and the problem
---@param problem any
function M.report(request, what, problem)
  problem = text(problem)
  if not find(problem, TIMED_OUT, 1, true) then
    log("error", name(request) .. what .. problem)
  end
end

return M
