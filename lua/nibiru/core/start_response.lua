--- The `start_response` of PEP 3333, and the `write` that it returns.
---
--- Called by the application, once or more in each request. The rules for a head are those of `head` or `authorizer`.

local response = ...

local send_chunk = response.send_chunk
local error, type = error, type

--- Sends a chunk of the body at once.
---@param request nibiru.Request
---@param chunk string
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

--- Checks a head and keeps it until the first byte of the body.
---@param request nibiru.Request
---@param status nibiru.Status
---@param headers nibiru.Headers
---@param exc_info any
local function start(request, status, headers, exc_info)
  if request.over then
    error("start_response was called after the request had ended", 3)
  elseif request.head then
    if exc_info == nil then
      error("start_response was already called; only an error handler may call it again, with exc_info", 3)
    elseif request.head_sent then
      -- PEP 3333: the head has been sent, so the application's error is raised again.
      error(exc_info, 0)
    end
  end
  local given, problem = request.check(status, headers)
  if not given then
    error(problem, 3)
  end
  request.head = given
end

local M = {}

--- Gives a request its `start_response`.
---@param request nibiru.Request
function M.offer(request)
  request.start_response = function(status, headers, exc_info)
    start(request, status, headers, exc_info)
    return function(chunk)
      write(request, chunk)
    end
  end
end

return M
