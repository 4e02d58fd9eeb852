--- `nibiru.after_response`: functions that an application has put off until its response is out.
---
--- Called by `server`, which begins the list with each request and runs it at the end. Sends no bytes of its own, and flushes
--- those of the response.

local host, loader, traceback = ...

local callable, describe = loader.callable, traceback.describe
local end_if_forked, send = host.end_if_forked, host.send
local error, type, xpcall = error, type, xpcall

-- The functions, once there is one: a field and not an upvalue, as `running` in `server`.
---@type { functions: table? }
local list = { functions = nil }
local count, done = 0, 0
local open = false

local M = {}

--- Begins the list of a request; functions can be registered until they have run. Functions that a request which was
--- interrupted twice has left behind are dropped.
function M.begin()
  if count > 0 then
    list.functions, count, done = nil, 0, 0
  end
  open = true
end

--- Registers a function for the running request.
---@param fn function|table
function M.register(fn)
  if not callable(fn) then
    error("fn must be a function, got " .. type(fn), 2)
  elseif not open then
    error("after_response must be called while a request runs", 2)
  end
  list.functions = list.functions or {}
  count = count + 1
  list.functions[count] = fn
end

--- Whether no function is registered.
---@return boolean
function M.is_empty()
  return count == 0
end

--- Runs the functions in their order, also those that they register themselves.
---@param report fun(problem: string)  is called with an error of a function
function M.run(report)
  if count > done then
    -- The response is on its way to the client before any of this runs.
    send(nil, nil, true)
  end
  while done < count do
    done = done + 1
    local ok, problem = xpcall(list.functions[done], describe)
    if not ok then
      report(problem)
    end
    end_if_forked()
  end
  if done > 0 then
    list.functions, count, done = nil, 0, 0
  end
end

--- Ends the list of a request: no function can be registered.
function M.close()
  open = false
end

return M
