--- Lua 5.4's `utf8` library, for Lua 5.1, 5.2 and LuaJIT.
---
--- Conforms to §6.5 of the reference manual, including its messages. Positions are bytes.

local byte, char, floor, format, sub = string.byte, string.char, math.floor, string.format, string.sub
local error, select, tonumber, type = error, select, tonumber, type
local concat, unpack = table.concat, table.unpack or unpack

local M = {}

-- One byte sequence, as a pattern. `%z`, because 5.1 has no other way to put a NUL into a set.
M.charpattern = "[%z\1-\127\194-\253][\128-\191]*"

local MAX_UNICODE, MAX_UTF = 0x10FFFF, 0x7FFFFFFF

local function bad_argument(position, name, what, level)
  error(format("bad argument #%d to '%s' (%s)", position, name, what), level + 1)
end

--- Checks an integer argument, as luaL_checkinteger does, with a default as in luaL_optinteger.
local function check_integer(value, position, name, default)
  if value == nil and default then
    return default
  end
  local number = type(value) == "number" and value or (type(value) == "string" and tonumber(value)) or nil
  if not number then
    bad_argument(position, name, "number expected, got " .. (value == nil and "no value" or type(value)), 3)
  elseif number % 1 ~= 0 then
    bad_argument(position, name, "number has no integer representation", 3)
  end
  return number
end

local function check_string(value, position, name)
  if type(value) == "number" then
    return value .. ""
  elseif type(value) ~= "string" then
    bad_argument(position, name, "string expected, got " .. (value == nil and "no value" or type(value)), 3)
  end
  return value
end

--- Turns a position from the end into one from the start; 0 for a position before the string.
local function from_start(position, length)
  if position >= 0 then
    return position
  elseif -position > length then
    return 0
  end
  return length + position + 1
end

local function is_continuation(s, position)
  local b = byte(s, position)
  return b ~= nil and b >= 0x80 and b < 0xC0
end

-- Least code for each length of sequence. Lower codes are overlong.
local LEAST = { 0x80, 0x800, 0x10000, 0x200000, 0x4000000 }

---@param s string
---@param position integer
---@param lax boolean
---@return integer? code
---@return integer? after  the position past the sequence
local function decode(s, position, lax)
  local first = byte(s, position)
  if first < 0x80 then
    return first, position + 1
  elseif first < 0xC0 or first >= 0xFE then
    return nil
  end
  local following = first < 0xE0 and 1 or first < 0xF0 and 2 or first < 0xF8 and 3 or first < 0xFC and 4 or 5
  local code = first % 2 ^ (6 - following)
  for offset = 1, following do
    local b = byte(s, position + offset)
    if not b or b < 0x80 or b >= 0xC0 then
      return nil
    end
    code = code * 64 + b % 64
  end
  if code < LEAST[following] then
    return nil
  elseif not lax and (code > MAX_UNICODE or (code >= 0xD800 and code <= 0xDFFF)) then
    return nil
  end
  return code, position + following + 1
end

local function encode(code)
  if code < 0x80 then
    return char(code)
  end
  local tail, room = "", 0x3F
  repeat
    tail = char(0x80 + code % 64) .. tail
    code = floor(code / 64)
    room = floor(room / 2)
  until code <= room
  return char((0xFF - room * 2 - 1) + code) .. tail
end

--- The joined UTF-8 sequences of the codes.
---@param ... integer
---@return string
function M.char(...)
  local parts = {}
  for position = 1, select("#", ...) do
    local code = check_integer((select(position, ...)), position, "char")
    if code < 0 or code > MAX_UTF then
      bad_argument(position, "char", "value out of range", 2)
    end
    parts[position] = encode(code)
  end
  return concat(parts)
end

--- The codes of the characters that start between `i` and `j`.
---@param s string
---@param i? integer
---@param j? integer
---@param lax? boolean
---@return integer ...
function M.codepoint(s, i, j, lax)
  s = check_string(s, 1, "codepoint")
  local from = from_start(check_integer(i, 2, "codepoint", 1), #s)
  local to = from_start(check_integer(j, 3, "codepoint", from), #s)
  if from < 1 then
    bad_argument(2, "codepoint", "out of bounds", 2)
  elseif to > #s then
    bad_argument(3, "codepoint", "out of bounds", 2)
  end
  local codes, count = {}, 0
  while from <= to do
    local code, after = decode(s, from, lax and true or false)
    if not code then
      error("invalid UTF-8 code", 2)
    end
    count = count + 1
    codes[count] = code
    from = after --[[@as integer]]
  end
  return unpack(codes, 1, count)
end

--- The number of characters that start between `i` and `j`; or nil and the position of the first invalid byte.
---@param s string
---@param i? integer
---@param j? integer
---@param lax? boolean
---@return integer? count
---@return integer? position
function M.len(s, i, j, lax)
  s = check_string(s, 1, "len")
  local from = from_start(check_integer(i, 2, "len", 1), #s)
  local to = from_start(check_integer(j, 3, "len", -1), #s)
  if from < 1 or from > #s + 1 then
    bad_argument(2, "len", "initial position out of bounds", 2)
  elseif to > #s then
    bad_argument(3, "len", "final position out of bounds", 2)
  end
  local count = 0
  while from <= to do
    local code, after = decode(s, from, lax and true or false)
    if not code then
      return nil, from
    end
    from = after --[[@as integer]]
    count = count + 1
  end
  return count
end

--- The position of the `n`-th character, counted from position `i`.
---@param s string
---@param n integer
---@param i? integer
---@return integer?
function M.offset(s, n, i)
  s = check_string(s, 1, "offset")
  n = check_integer(n, 2, "offset")
  local position = from_start(check_integer(i, 3, "offset", n >= 0 and 1 or #s + 1), #s)
  if position < 1 or position > #s + 1 then
    bad_argument(3, "offset", "position out of bounds", 2)
  end
  if n == 0 then
    while position > 1 and is_continuation(s, position) do
      position = position - 1
    end
    return position
  end
  if is_continuation(s, position) then
    error("initial position is a continuation byte", 2)
  end
  if n < 0 then
    while n < 0 and position > 1 do
      repeat
        position = position - 1
      until position <= 1 or not is_continuation(s, position)
      n = n + 1
    end
  else
    n = n - 1
    while n > 0 and position <= #s do
      repeat
        position = position + 1
      until not is_continuation(s, position)
      n = n - 1
    end
  end
  if n == 0 then
    return position
  end
  return nil
end

--- Iterates over `position, code` of every character.
---@param s string
---@param lax? boolean
function M.codes(s, lax)
  s = check_string(s, 1, "codes")
  lax = lax and true or false
  if is_continuation(s, 1) then
    bad_argument(1, "codes", "invalid UTF-8 code", 2)
  end
  return function(_, position)
    position = position + 1
    while is_continuation(s, position) do
      position = position + 1
    end
    if position > #s then
      return nil
    end
    local code, after = decode(s, position, lax)
    if not code or is_continuation(s, after) then
      error("invalid UTF-8 code", 2)
    end
    return position, code
  end, s, 0
end

return M
