--- `wsgi.input`: the request's body, read like a Lua file handle. `nibiru.filter_data`, a Filter's data, is another.
---
--- The bytes stay with the host, in memory or in a file, and are fetched by position: an application that reads a large upload
--- in pieces never holds all of it. Never gives a byte beyond the body.

local host = ...

local error, format, select, setmetatable, sub, type = error, string.format, select, setmetatable, string.sub, type
local unpack = table.unpack or unpack

---@class nibiru.Input
---@field private serial integer  of the body; the host refuses one of another request
---@field private size integer
---@field private position integer
---@field private closed? true
---@field private name? string  where it is not `wsgi.input`
local methods = {}

-- Shared by all requests, and out of their reach.
local Input = { __index = methods, __metatable = false, __name = "wsgi.input" }

-- The error level of the method's caller, seen from the helpers below: two calls up.
local LEVEL = 3

local function check_open(self)
  if self.closed or not host.input_live(self.serial) then
    error("attempt to use a closed file", LEVEL)
  end
end

--- Reads bytes and moves on, fewer at the body's end.
---@param self nibiru.Input
---@param count integer
---@return string? bytes
---@return string? problem
local function take(self, count)
  local left = self.size - self.position
  if count > left then
    count = left
  end
  if count <= 0 then
    return ""
  end
  local bytes, problem = host.input_read(self.serial, self.position, count)
  if bytes then
    self.position = self.position + #bytes
  end
  return bytes, problem
end

--- Reads a line.
---@param self nibiru.Input
---@param keep boolean  keeps the line's end
---@return string? line, nil at the end
---@return string? problem
local function line(self, keep)
  if self.position >= self.size then
    return nil
  end
  local stop, problem = host.input_line(self.serial, self.position)
  if not stop then
    return nil, problem
  end
  local bytes
  bytes, problem = take(self, stop - self.position)
  if bytes and not keep and sub(bytes, -1) == "\n" then
    bytes = sub(bytes, 1, -2)
  end
  return bytes, problem
end

--- Reads by one format.
---@param self nibiru.Input
---@param what any        one of the formats of `file:read`
---@param argument integer  its place, for the message
---@param method string
local function read_one(self, what, argument, method)
  if type(what) == "number" and what >= 0 and what % 1 == 0 then
    if self.position >= self.size then
      return nil
    end
    return take(self, what)
  elseif type(what) == "string" then
    -- Lua 5.1 and LuaJIT write "*l"; later ones accept both.
    local letter = sub(what, 1, 1) == "*" and sub(what, 2, 2) or sub(what, 1, 1)
    if letter == "a" then
      return take(self, self.size)
    elseif letter == "l" or letter == "L" then
      return line(self, letter == "L")
    end
  end
  error(format("bad argument #%d to '", argument) .. method .. "' (invalid format)", LEVEL)
end

--- Reads by the formats of `file:read`, but without any gives the rest, `""` when there is none.
---@param ... string|integer  "a", "l", "L" or a number of bytes
---@return string?
function methods:read(...)
  check_open(self)
  local count = select("#", ...)
  if count == 0 or (count == 1 and (...) == nil) then
    return take(self, self.size)
  end
  local results = {}
  for argument = 1, count do
    local bytes, problem = read_one(self, (select(argument, ...)), argument, "read")
    if problem then
      return nil, problem
    end
    results[argument] = bytes
    if bytes == nil then
      count = argument
      break
    end
  end
  return unpack(results, 1, count)
end

--- An iterator over the body, by lines unless a format says otherwise.
---@param what? string|integer
---@return fun(): string?
function methods:lines(what)
  check_open(self)
  what = what == nil and "l" or what
  return function()
    check_open(self)
    local bytes, problem = read_one(self, what, 1, "lines")
    if bytes == nil and problem then
      error(problem, 2)
    end
    return bytes
  end
end

--- Moves like `file:seek`.
---@param whence? "set"|"cur"|"end"
---@param offset? integer
---@return integer? position
---@return string? problem
function methods:seek(whence, offset)
  check_open(self)
  local base
  if whence == nil or whence == "cur" then
    base = self.position
  elseif whence == "set" then
    base = 0
  elseif whence == "end" then
    base = self.size
  else
    error("bad argument #1 to 'seek' (invalid option)", 2)
  end
  if offset ~= nil and (type(offset) ~= "number" or offset % 1 ~= 0) then
    error("bad argument #2 to 'seek' (whole number expected)", 2)
  end
  local position = base + (offset or 0)
  if position < 0 then
    return nil, "Invalid argument"
  end
  self.position = position
  return position
end

--- PEP 3333's name: the next line with its end, at most `size` bytes of it; nil at the end.
---@param size? integer
---@return string?
function methods:readline(size)
  check_open(self)
  local from = self.position
  local bytes, problem = line(self, true)
  if bytes and type(size) == "number" and size >= 0 and #bytes > size then
    size = size - size % 1
    self.position = from + size
    bytes = sub(bytes, 1, size)
  end
  return bytes, problem
end

--- PEP 3333's name: an array of the lines left, stopping once they hold `hint` bytes.
---@param hint? integer
---@return string[]
function methods:readlines(hint)
  check_open(self)
  local lines, total = {}, 0
  while not (hint and hint > 0 and total >= hint) do
    local bytes, problem = line(self, true)
    if problem then
      error(problem, 2)
    elseif not bytes then
      break
    end
    lines[#lines + 1] = bytes
    total = total + #bytes
  end
  return lines
end

--- Ends the reading; libraries that drain a file handle close it.
---@return true
function methods:close()
  check_open(self)
  self.closed = true
  return true
end

function Input.__tostring(self)
  return (self.name or "wsgi.input") .. " (" .. self.size .. " bytes)"
end

local M = {}

--- An input over one of the host's bodies.
---@param serial integer  the body's number
---@param size integer    of the body, in bytes
---@param name? string
---@return nibiru.Input
function M.new(serial, size, name)
  local self = { serial = serial, size = size, position = 0, closed = nil }
  if name then
    self.name = name
  end
  return setmetatable(self, Input)
end

return M
