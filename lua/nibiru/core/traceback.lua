--- The text of an error for the log: its message and its stack.
---
--- Runs inside message handlers, where the stack may be nearly full and the error may be any value, so no function here may
--- raise an error.

local host, main = ...

local debug_traceback, getinfo = debug.traceback, debug.getinfo
local running = coroutine.running
local debug_getmetatable = debug.getmetatable
local byte, find, gmatch, gsub, match, sub, format = string.byte, string.find, string.gmatch, string.gsub, string.match, string.sub, string.format
local concat, sort = table.concat, table.sort
local next, pcall, rawget, tostring, type = next, pcall, rawget, tostring, type

local M = {}

-- A table error often carries what went wrong in a handful of plain fields; more would flood the log.
local FIELDS_SHOWN = 8
local FIELDS_LOOKED_AT, FIELDS_KEPT = 10000, 64
local LONGEST_KEY, LONGEST_FIELD = 64, 1024

-- Bytes of a message, at most. The log takes lines of 64 KiB, stack included. A message is cut first: each later step would copy
-- many megabytes.
local LONGEST_MESSAGE = 32 * 1024

-- The mark between a message and its stack.
local MARK = "\nstack traceback:\n"

--- `tostring`, except that a string stays itself: the metatable of strings is the application's, and may have a `__tostring`.
---@param value any
---@return string
function M.text(value)
  return type(value) == "string" and value or tostring(value)
end
local text_of = M.text

--- A text, cut to a number of bytes; the end of a cut text gives the number of missing bytes.
---@param text string
---@param longest integer
---@return string
local function cut(text, longest)
  if #text <= longest then
    return text
  end
  local last = longest
  -- Never cuts within a character of UTF-8.
  for _ = 1, 3 do
    local following = byte(text, last + 1)
    if following < 0x80 or following >= 0xC0 then
      break
    end
    last = last - 1
  end
  return sub(text, 1, last) .. format("… (%d bytes are left out)", #text - last)
end

--- The plain fields of a table, without secrets.
---@param value table
---@return string
local function fields(value)
  local shown, looked_at = {}, 0
  for key, field in next, value do
    looked_at = looked_at + 1
    if looked_at > FIELDS_LOOKED_AT or #shown == FIELDS_KEPT then
      break
    end
    local kind = type(field)
    if type(key) == "string" and (kind == "string" or kind == "number" or kind == "boolean") then
      local text = kind == "string" and format("%q", cut(field, LONGEST_FIELD)) or text_of(field)
      local secret = #key > LONGEST_FIELD or host.is_secret(key)
      shown[#shown + 1] = cut(key, LONGEST_KEY) .. " = " .. (secret and "[redacted]" or text)
    end
  end
  sort(shown)
  return concat(shown, ", ", 1, #shown < FIELDS_SHOWN and #shown or FIELDS_SHOWN)
end

--- The text of an error value of any type.
---@param value any
---@return string
function M.message(value)
  local kind = type(value)
  if kind == "string" then
    return cut(value, LONGEST_MESSAGE)
  elseif kind == "nil" then
    return "error object is nil"
  end
  local metatable = debug_getmetatable(value)
  if kind == "number" or (type(metatable) == "table" and rawget(metatable, "__tostring") ~= nil) then
    local ok, text = pcall(tostring, value)
    -- Lua 5.1 lets __tostring return anything.
    if ok and type(text) == "string" then
      return cut(text, LONGEST_MESSAGE)
    end
    return "error object is a " .. kind .. " whose __tostring failed"
  elseif kind == "table" then
    local ok, text = pcall(fields, value)
    return "error object is a table: { " .. (ok and text or "?") .. " }"
  elseif kind == "boolean" then
    return "error object is " .. tostring(value)
  end
  return "error object is a " .. kind
end

--- Cuts the frames of nibiru itself off the outer end: they are the same for every request.
---@param text string
---@return string
local function trim(text)
  local cut, from = nil, 1
  while true do
    local at = find(text, "\n[^\n]*%[C%]: in %w+ 'xpcall'", from)
    if not at then
      break
    end
    cut, from = at, at + 1
  end
  if not cut then
    return text
  end
  text = sub(text, 1, cut - 1)
  while true do
    local line = match(text, "\n[^\n]*$")
    if not line or not (find(line, "\tnibiru/[%w_/]+%.lua:") or find(line, "tail call", 1, true)) then
      break
    end
    text = sub(text, 1, -#line - 1)
  end
  return (gsub(text, "\nstack traceback:$", ""))
end

--- Removes a stack that has C frames only, such as that of `require` for a module that is not there.
---@param text string
---@return string
local function without_bare_stack(text)
  local at, last = find(text, MARK, 1, true)
  if not at then
    return text
  end
  for line in gmatch(sub(text, last + 1), "[^\n]+") do
    if sub(line, 1, 5) ~= "\t[C]:" then
      return text
    end
  end
  return sub(text, 1, at - 1)
end

--- A message handler for `xpcall`: message and trimmed stack in one string.
---@param value any
---@return string
function M.describe(value)
  return without_bare_stack(trim(debug_traceback(M.message(value), 2)))
end

--- Adds the application's place to the text of a failure whose stack shows none of its code: the application returned a wrong
--- value, say.
---@param text string  from `describe`
---@param application any
---@return string
function M.place(text, application)
  if find(text, MARK, 1, true) then
    return text
  end
  if type(application) ~= "function" then
    local metatable = debug_getmetatable(application)
    application = type(metatable) == "table" and rawget(metatable, "__call") or nil
  end
  local place = type(application) == "function" and getinfo(application, "S")
  if not place or place.linedefined < 1 then
    return text
  end
  return text .. MARK .. "\t" .. place.short_src .. format(":%d: in the application", place.linedefined)
end

--- The stack of the caller's caller under a message that is no error.
---@param message string
---@return string
function M.here(message)
  return trim(debug_traceback(message, 3))
end

--- The stack of the code that runs, and of the code that resumed it where that is a coroutine. The host calls this in the middle
--- of that code.
---@param problem string  the error that is raised there next, or empty
---@return string text     the problem and the stack
---@return string problem  with its place
function M.interrupted(problem)
  local text
  if problem == "" then
    text = sub(debug_traceback("", 2), 2)
  else
    local place = getinfo(2, "Sl")
    if place and place.currentline > 0 then
      problem = place.short_src .. format(":%d: ", place.currentline) .. problem
    end
    text = debug_traceback(problem, 2)
  end
  local thread = running()
  if thread and thread ~= main then
    text = text .. "\n\t(a coroutine, resumed by)" .. gsub(debug_traceback(main, ""), "^\nstack traceback:", "", 1)
  end
  return trim(text), problem
end

return M
