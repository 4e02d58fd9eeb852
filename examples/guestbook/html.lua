--- HTML from templates in which every value is escaped unless the template says otherwise.

local M = {}

local ESCAPES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

--- `text` for use between tags and in quoted attributes.
---@param text string
---@return string
function M.escape(text)
  return (text:gsub("[&<>\"']", ESCAPES))
end

--- Fills `${name}` with the escaped value, `${name|raw}` with HTML as it is.
---@param template string
---@param values table<string, string>
---@return string
function M.fill(template, values)
  return (template:gsub("%${(%w+)(|?%w*)}", function(name, filter)
    local value = values[name] or error("no value for " .. name, 2)
    return filter == "|raw" and value or M.escape(value)
  end))
end

return M
