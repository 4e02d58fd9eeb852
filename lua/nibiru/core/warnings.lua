--- Warnings of nibiru's own Lua code to the log, each once in a worker.

local host = ...

local log = host.log

-- Warnings of a worker, at most: an application can make up names of headers without end.
local MOST = 32
local logged, count = {}, 0

local M = {}

--- Logs a warning once in this worker.
---@param key string  of the warning
---@param message string
function M.once(key, message)
  if not logged[key] and count < MOST then
    logged[key], count = true, count + 1
    log("warn", message .. " (each worker says so once)")
  end
end

return M
