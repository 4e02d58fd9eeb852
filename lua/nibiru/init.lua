--- `require("nibiru")`: the server's functions for an application, apart from those of a request.

local host, traceback = ...

local describe, text = traceback.describe, traceback.text
local error, ipairs = error, ipairs
local next, tostring, type, xpcall = next, tostring, type, xpcall

---@class nibiru
---@field version string      of the server
---@field generation integer  1 for the code the server started with, one more after each reload
local M = { version = host.version, generation = host.generation }

local starting, stopping = {}, {}
local started = false

local function check_function(fn)
  if type(fn) ~= "function" then
    error("fn must be a function, got " .. type(fn), 3)
  end
end

--- Registers a function that every worker runs after its fork: open databases and sockets here.
---@param fn fun(worker: integer)
function M.on_worker_start(fn)
  check_function(fn)
  if started then
    error("on_worker_start must be called while the application loads; this worker has started", 2)
  end
  starting[#starting + 1] = fn
end

--- Registers a function that every worker runs before it stops in good order.
---@param fn fun()
function M.on_worker_stop(fn)
  check_function(fn)
  stopping[#stopping + 1] = fn
end

--- Waits. While a request runs that is not answered yet, it ends at once when the client goes away.
---@param seconds number
---@return boolean here  false where the client has gone
function M.sleep(seconds)
  if type(seconds) ~= "number" then
    error("seconds must be a number, got " .. type(seconds), 2)
  elseif not (seconds >= 0) then
    error("seconds must not be negative, got " .. tostring(seconds), 2)
  end
  local left, here = host.sleep(seconds)
  -- A signal ends the wait early, so that what it asks for is done here.
  while here and left > 0 do
    left, here = host.sleep(left)
  end
  return here
end

--- A function that logs at a level.
---@param level string
---@return fun(message: string, fields?: table<string, any>)
local function logger(level)
  return function(message, fields)
    if type(message) ~= "string" then
      error("message must be a string, got " .. type(message), 2)
    elseif fields ~= nil and type(fields) ~= "table" then
      error("fields must be a table, got " .. type(fields), 2)
    end
    local plain
    if fields then
      plain = {}
      for key, value in next, fields do
        local kind = type(value)
        if kind ~= "string" and kind ~= "number" and kind ~= "boolean" then
          value = tostring(value)
        end
        plain[text(key)] = value
      end
    end
    host.log(level, message, plain)
  end
end

--- Writes to the server's log, under the request that is running.
M.log = {
  debug = logger("debug"),
  info = logger("info"),
  warn = logger("warn"),
  error = logger("error"),
}

local hooks = {}

--- Runs the start hooks; the first failure ends the start.
---@param worker integer
---@return string? problem
function hooks.start_worker(worker)
  started = true
  for _, fn in ipairs(starting) do
    local ok, problem = xpcall(function()
      fn(worker)
    end, describe)
    if not ok and host.is_forked() then
      host.log("error", "error in on_worker_start: " .. problem)
    end
    host.end_if_forked()
    if not ok then
      return problem
    end
  end
  return nil
end

--- Runs the stop hooks, each also after the error of another.
function hooks.stop_worker()
  for _, fn in ipairs(stopping) do
    local ok, problem = xpcall(function()
      fn()
    end, describe)
    if not ok then
      host.log("error", "error in on_worker_stop: " .. problem)
    end
    host.end_if_forked()
  end
end

return M, hooks
