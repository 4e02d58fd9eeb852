--- The status of a response, checked, as the first line of its head.
---
--- Called by `head.check`.

local host, strings = ...

local find, format, match, sub = string.find, string.format, string.match, string.sub
local tonumber, type = tonumber, type
local reason_of, control_character, show = host.reason, strings.control_character, strings.show

-- Bytes of a head, at most. A longer head is refused at once, since it may have no end.
local MAX_HEAD = host.max_head

local M = {}

--- The problem of a head that is too long.
M.too_long = format("the response head has more than %d bytes", MAX_HEAD)

-- Statuses that have been checked, at most so many: applications use a few over and over. The bounds keep an application that
-- makes statuses up from filling the memory.
local REMEMBERED, LONGEST_KEPT = 512, 256
local lines, codes, kept = {}, {}, 0

--- The first line of a head for a status.
---@param status any
---@return string? line
---@return integer|string code  or a message
function M.check(status)
  local line = lines[status]
  if line then
    return line, codes[status]
  end
  local code, reason
  if type(status) == "string" and #status > MAX_HEAD then
    return nil, M.too_long
  elseif type(status) == "number" then
    code = status % 1 == 0 and status or nil
  elseif type(status) == "string" then
    local digits, rest = match(status, "^(%d%d%d)(.*)$")
    if digits and (rest == "" or sub(rest, 1, 1) == " ") then
      code, reason = tonumber(digits), sub(rest, 2)
    end
  end
  -- RFC 9110 §15: 1xx is never a final response, and there is no class beyond 5xx.
  if not code or code < 200 or code > 599 then
    return nil, 'status must be like "200 OK", "200" or 200 and between 200 and 599, got ' .. show(status)
  end
  local control = reason and control_character(reason)
  if control then
    return nil, "status " .. show(status) .. " contains " .. control
  end
  if not reason or not find(reason, "%S") then
    reason = reason_of(code)
  end
  line = format("Status: %d ", code) .. reason .. "\r\n"
  if kept < REMEMBERED and #line <= LONGEST_KEPT then
    kept = kept + 1
    lines[status], codes[status] = line, code
  end
  return line, code
end

return M
