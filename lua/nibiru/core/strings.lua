--- Strings of an application in checks and messages, independent of the locale, which the application may set.
---
--- Used by the checks of a response head.

local byte, find, format, gmatch, gsub, small_of, sub =
  string.byte, string.find, string.format, string.gmatch, string.gsub, string.lower, string.sub
local tostring, type = tostring, type

local M = {}

-- Bytes of a value in a message, at most.
local SHOWN = 60

local SMALL = {}
for letter in gmatch("ABCDEFGHIJKLMNOPQRSTUVWXYZ", ".") do
  SMALL[letter] = small_of(letter)
end

--- A header name in lower case, in every locale: Turkish has a small I of its own. A name has no letters beyond ASCII.
---@param name string
---@return string
function M.lower(name)
  return (gsub(name, "[A-Z]", SMALL))
end

--- A value for a message: a string quoted and cut, a table or the like as its type.
---@param value any
---@return string
function M.show(value)
  if type(value) == "string" then
    return format("%q", #value > SHOWN and sub(value, 1, SHOWN) .. "…" or value)
  elseif type(value) == "number" or type(value) == "boolean" then
    return tostring(value)
  end
  return type(value)
end

--- The first control character of a text, but for tabs. PEP 3333: values "must not include any control characters"; RFC 9110
--- §5.5 lets a tab pass.
---@param text string
---@return string? description of the first control character
function M.control_character(text)
  -- A search for "%c" would match anew from each byte, which takes longer.
  if find(text, "^%C*$") then
    return nil
  end
  local at = find(text, "[%z\1-\8\10-\31\127]")
  if not at then
    return nil
  end
  local code = byte(text, at)
  local name = ({ [0] = "NUL", [10] = "LF", [13] = "CR" })[code] or format("control character 0x%02X", code)
  return name .. format(" at byte %d", at)
end

return M
