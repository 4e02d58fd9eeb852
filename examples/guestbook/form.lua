--- Forms as browsers send them: application/x-www-form-urlencoded.

local M = {}

local function decode_part(text)
  return (text:gsub("+", " "):gsub("%%(%x%x)", function(digits)
    return string.char(tonumber(digits, 16))
  end))
end

--- The fields of a form by name; the last of a name wins.
---@param text string
---@return table<string, string>
function M.decode(text)
  local fields = {}
  for pair in text:gmatch("[^&]+") do
    local name, value = pair:match("^([^=]*)=?(.*)$")
    fields[decode_part(name)] = decode_part(value)
  end
  return fields
end

return M
