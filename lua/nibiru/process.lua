--- The process around the application: an `os.exit` that still answers the request, random numbers that differ between workers,
--- output that appears line by line.

local host, server, traceback = ...

local here, text = traceback.here, traceback.text
local error, pcall, tonumber, type = error, pcall, tonumber, type
local ceil, floor, has_integers, randomseed = math.ceil, math.floor, math.type ~= nil, math.randomseed
local stdout, stderr = io.stdout, io.stderr
local flush, setvbuf = stdout.flush, stdout.setvbuf
local is_luajit, lua_version = jit ~= nil, _VERSION

--- Writes out the buffers of `print` and its kin. The application may have closed either file.
local function flush_output()
  pcall(flush, stdout)
  pcall(flush, stderr)
end

--- The exit status for the argument of `os.exit`. Raises the errors of Lua's own for an argument that is none, before anything has
--- ended.
---@param code? boolean|integer|string
---@return integer  from 0 to 255
local function exit_status(code)
  if code == nil or code == true then
    return 0
  elseif code == false then
    return 1
  end
  local number = type(code) == "string" and tonumber(code) or code
  if type(number) ~= "number" then
    error("bad argument #1 to 'exit' (number expected, got " .. type(code) .. ")", 3)
  end
  local fits = number >= -2 ^ 63 and number < 2 ^ 63
  if not has_integers then
    -- Those Luas cut the fraction off; a number beyond C's integers becomes one that ends in zeros.
    number = fits and (number < 0 and ceil or floor)(number) or 0
  elseif not fits or floor(number) ~= number then
    error("bad argument #1 to 'exit' (number has no integer representation)", 3)
  end
  return number % 256
end

--- Ends the worker. The request that is running is answered with `500` first, unless its head is out.
---@param code? boolean|integer
---@diagnostic disable-next-line: duplicate-set-field
function os.exit(code)
  local status = exit_status(code)
  if host.is_forked() then
    -- A process that the application forked has no request to answer.
    flush_output()
    host.exit(nil, status)
  end
  local outcome = server.abandon(here("os.exit(" .. (code == nil and "" or text(code)) .. ") was called"))
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
