--- What the process around the application needs from Lua's own libraries: an `os.exit` that still
--- answers the request, random numbers that differ between workers, output that appears line by line.

local host, server, traceback = ...

local here = traceback.here
local error, format, tostring, type = error, string.format, tostring, type
local floor, randomseed = math.floor, math.randomseed
local stdout, stderr = io.stdout, io.stderr

--- Ends the worker. The request that is running is answered with `500` first, unless its head is out.
---@param code? boolean|integer
---@diagnostic disable-next-line: duplicate-set-field
function os.exit(code)
  local status
  if code == nil or code == true then
    status = 0
  elseif code == false then
    status = 1
  elseif type(code) == "number" then
    status = floor(code) % 256
  else
    error(format("bad argument #1 to 'exit' (number expected, got %s)", type(code)), 2)
  end
  local outcome = server.abandon(here(format("os.exit(%s) was called", code == nil and "" or tostring(code))))
  stdout:flush()
  stderr:flush()
  host.exit(outcome, status)
end

local M = {}

--- Empties the buffers, so that a fork does not write them twice.
function M.flush()
  stdout:flush()
  stderr:flush()
end

--- Each worker inherits the zygote's generator, so each is seeded anew.
---@param high integer  32 random bits
---@param low integer   32 more
function M.start_worker(high, low)
  stdout:setvbuf("line")
  if jit then
    -- LuaJIT takes the bits of a double, but its generator drops the lowest ones: 44 bits all count.
    randomseed(high * 2 ^ 12 + low % 2 ^ 12)
  elseif _VERSION == "Lua 5.1" or _VERSION == "Lua 5.2" or _VERSION == "Lua 5.3" then
    -- These hand the seed to C's srand as an int.
    randomseed(low % 2 ^ 31)
  else
    randomseed(high, low)
  end
end

return M
