--- The server's own keys in `environ`: PEP 3333's WSGI variables, and the objects behind them.
---
--- Called by `server` for each request. The CGI variables are already there when `fill` runs, and none of them can displace
--- these keys.

local host, input, file = ...

local file_wrapper, log, new_input = file.wrapper, host.log, input.new
local error, find, format, select, sub = error, string.find, string.format, select, string.sub
local setmetatable, type = setmetatable, type

-- The roles of FastCGI 1.0 §6 by its numbers, which the host uses too.
local roles = { "responder", "authorizer", "filter" }

-- The line of `wsgi.errors` whose end has not been written yet.
local partial_line = ""

-- `wsgi.errors`: each request has an object of its own, which its application may change, and all write to the log under the
-- request that is running. Their shared methods are out of the application's reach.
local methods = {}
local Errors = { __index = methods, __metatable = false }

--- Logs the whole lines of a text and keeps the rest.
---@param text string|number
local function write_errors(text)
  text = partial_line .. text
  local from = 1
  while true do
    local at = find(text, "\n", from, true)
    if not at then
      break
    end
    log("error", sub(text, from, at - 1))
    from = at + 1
  end
  partial_line = sub(text, from)
end

function methods:write(...)
  for position = 1, select("#", ...) do
    local text = (select(position, ...))
    if type(text) ~= "string" and type(text) ~= "number" then
      error(format("bad argument #%d to 'write' (string expected, got ", position) .. type(text) .. ")", 2)
    end
    write_errors(text)
  end
  return self
end

function methods:writelines(lines)
  if type(lines) ~= "table" then
    error("lines must be an array of strings", 2)
  end
  for position = 1, #lines do
    if type(lines[position]) ~= "string" then
      error(format("lines[%d] must be a string", position), 2)
    end
    write_errors(lines[position])
  end
end

local function flush()
  if partial_line ~= "" then
    local line = partial_line
    partial_line = ""
    log("error", line)
  end
end

function methods:flush()
  flush()
  return self
end

--- The scheme of the client's URL, from HTTPS or else REQUEST_SCHEME.
---@param environ table
---@return "http"|"https"
local function scheme(environ)
  local https = environ.HTTPS
  if https ~= nil then
    return (https ~= "" and https ~= "off" and https ~= "0") and "https" or "http"
  end
  return environ.REQUEST_SCHEME == "https" and "https" or "http"
end

local M = {}

--- Logs the line of `wsgi.errors` whose end has not been written yet.
M.flush_errors = flush

--- Sets CONTENT_LENGTH to the body's length, in bytes, where the proxy did not know it before the end (a chunked upload) and sent
--- none, or -1. Removes the client's own headers about the length and about a coding that the proxy has undone: they may
--- contradict it.
---@param environ table
---@param length integer
local function tell_length(environ, length)
  local given = environ.CONTENT_LENGTH
  if given == "-1" or (length > 0 and (given == nil or given == "")) then
    environ.CONTENT_LENGTH = format("%d", length)
  end
  if environ.HTTP_CONTENT_LENGTH ~= nil then
    environ.HTTP_CONTENT_LENGTH = nil
  end
  if environ.HTTP_TRANSFER_ENCODING ~= nil then
    environ.HTTP_TRANSFER_ENCODING = nil
  end
end

--- Adds the server's keys.
---@param environ table
---@param serial integer  the host's number for the request's body; that of its data is the next
---@param length integer  of that body
---@param role integer
---@param data_length integer?  of a Filter's data
---@return string role  its name
function M.fill(environ, serial, length, role, data_length)
  local name = roles[role]
  tell_length(environ, length)
  environ["wsgi.version"] = { 1, 0 }
  environ["wsgi.url_scheme"] = scheme(environ)
  environ["wsgi.input"] = new_input(serial, length)
  environ["wsgi.errors"] = setmetatable({}, Errors)
  environ["wsgi.multithread"] = false
  environ["wsgi.multiprocess"] = true
  environ["wsgi.run_once"] = false
  environ["wsgi.file_wrapper"] = file_wrapper
  environ["nibiru.role"] = name
  if data_length then
    environ["nibiru.filter_data"] = new_input(serial + 1, data_length, "nibiru.filter_data")
  end
  return name
end

return M
