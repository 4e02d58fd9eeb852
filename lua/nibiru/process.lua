--- What the process around the application needs from Lua's own libraries: an `os.exit` that still
--- answers the request, random numbers that differ between workers, output that appears line by line.

local host, server, traceback = ...

local here = traceback.here
local error, format, pcall, tostring, type = error, string.format, pcall, tostring, type
local floor, randomseed = math.floor, math.randomseed
local stdout, stderr = io.stdout, io.stderr
local flush, setvbuf = stdout.flush, stdout.setvbuf
local is_luajit, lua_version = jit ~= nil, _VERSION

--- Writes out what `print` and its kin hold back. The application may have closed either.
local function flush_output()
  pcall(flush, stdout)
  pcall(flush, stderr)
end

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
  if host.is_forked() then
    -- A process that the application forked has no request to answer.
    flush_output()
    host.exit(nil, status)
  end
  local outcome = server.abandon(here(format("os.exit(%s) was called", code == nil and "" or tostring(code))))
  flush_output()
  host.exit(outcome, status)
end

-- What is printed while the application loads is in the log before it crashes, too.
pcall(setvbuf, stdout, "line")

local M = {}

--- Empties the buffers, so that a fork does not write them twice.
M.flush = flush_output

--- Each worker inherits the zygote's generator, so each is seeded anew.
---@param high integer  32 random bits
---@param low integer   32 more
function M.start_worker(high, low)
  if is_luajit then
    -- LuaJIT takes the bits of a double, but its generator drops the lowest ones: 44 bits all count.
    randomseed(high * 2 ^ 12 + low % 2 ^ 12)
  elseif lua_version == "Lua 5.1" or lua_version == "Lua 5.2" or lua_version == "Lua 5.3" then
    -- These hand the seed to C's srand as an int.
    randomseed(low % 2 ^ 31)
  else
    randomseed(high, low)
  end
end

return M
