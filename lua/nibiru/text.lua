--- `require("nibiru.text")`: the check of bytes for UTF-8, and their repair.

local host = ...

local error, type = error, type

---@class nibiru.text
local M = {}

local function check(s)
  if type(s) ~= "string" then
    error("s must be a string, got " .. type(s), 3)
  end
end

--- Whether `s` is well-formed UTF-8 (Unicode, chapter 3: no surrogates, nothing overlong).
---@param s string
---@return boolean valid
---@return integer? position  of the first byte that is not
function M.valid_utf8(s)
  check(s)
  local position = host.invalid_utf8(s)
  if position then
    return false, position
  end
  return true
end

--- `s` with U+FFFD in place of each ill-formed part; a valid string comes back as it is.
---@param s string
---@return string
function M.scrub(s)
  check(s)
  return host.scrub_utf8(s)
end

return M
