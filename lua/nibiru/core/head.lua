--- The check of a response head: status, headers, and the body's length that they promise.
---
--- Called by `start_response` and the short form. Gives finished CGI header lines, or a message that names the header at fault.
--- Never sends anything. `status_line` checks the status, `header_rules` has the rules of single header names.

local host, strings, status_line, header_rules = ...

local find, format = string.find, string.format
local error, next, tostring, type = error, next, tostring, type
local integer_type = math.type or function() end
local huge, proxy_order = math.huge, host.proxy_order
local lower, show, control_character = strings.lower, strings.show, strings.control_character
local check_status = status_line.check
local noted, rules, order, given_twice = header_rules.noted, header_rules.rules, header_rules.order, header_rules.given_twice

---@class nibiru.Head
---@field block string    header lines, each with its CRLF; without Content-Length and the blank line
---@field code integer    200..599
---@field length integer? the application's Content-Length
---@field length_text string?
---@field replaced boolean?  by an order of the application's the proxy sends another body in the response's place
---@field grants boolean?   the head lets an Authorizer's request go on, and is sent without a body
---@field ["content-type"] boolean  the head has a Content-Type; the same for every other name in `header_rules.noted`

local M = {}

--- A header name that has been checked, with its last value: most headers have the same value in every response.
---@class nibiru.KnownHeader
---@field small string     the name in lower case
---@field once boolean?    the name's entry in `header_rules.noted`
---@field value string?
---@field line string?     of that value; none for a Content-Length
---@field length integer?  of that value, a Content-Length
---@field number number?   that value, where it is a Content-Length that came as a number other than 0: 0 equals -0.0, which is refused

-- At most so many: applications use a few names over and over. The bounds keep an application that makes names or values up from
-- filling the memory.
local REMEMBERED, LONGEST_KEPT = 512, 256
---@type table<string, nibiru.KnownHeader>
local known, names_kept = {}, 0

-- Bytes of a head, at most.
local MAX_HEAD = host.max_head
local TOO_LONG = status_line.too_long

-- Headers of a head, at most: a line has a name of one byte at least, ": " and its end. Headers that are left out count as well.
local MOST_HEADERS = MAX_HEAD / 4

---@param name any
---@return string? lower-case name
---@return string? problem
local function check_name(name)
  if type(name) ~= "string" then
    return nil, "header name must be a string, got " .. show(name)
  elseif #name > MAX_HEAD then
    return nil, TOO_LONG
  end
  -- RFC 9110 §5.6.2: a token.
  if not find(name, "^[A-Za-z0-9!#$%%&'*+%-.^_`|~]+$") then
    return nil, "header name " .. show(name) .. " is not a valid name"
  end
  local small = lower(name)
  -- An order for the proxy is looked at each time that it is given.
  if names_kept < REMEMBERED and not proxy_order(small) then
    names_kept = names_kept + 1
    -- Every field is named, so that the table has its final size at once.
    known[name] = { small = small, once = noted[small], value = nil, line = nil, length = nil, number = nil }
  end
  return small
end

--- Adds a header to a head whose name has come with the same value before.
---@param head nibiru.Head
---@param name string
---@param last nibiru.KnownHeader
---@return string? problem
local function add_again(head, name, last)
  local length, once = last.length, last.once
  if length then
    if #head.block + #name + #last.value > MAX_HEAD then
      return TOO_LONG
    elseif head.length then
      return given_twice("Content-Length")
    end
    head.length, head.length_text = length, last.value
    return nil
  elseif once ~= nil then
    local small = last.small
    if once and head[small] then
      return given_twice(name)
    end
    head[small] = true
  end
  local block = head.block .. last.line
  head.block = block
  return #block > MAX_HEAD and TOO_LONG or nil
end

--- Adds one header to a head.
---@param head nibiru.Head
---@param name any
---@param value any
---@return string? problem
local function add(head, name, value)
  local last = known[name]
  if last and value ~= nil and (last.value == value or last.number == value) then
    return add_again(head, name, last)
  end
  local small = last and last.small
  if not small then
    local problem
    small, problem = check_name(name)
    if not small then
      return problem
    end
    last = known[name]
  end
  local is_number = type(value) == "number"
  if is_number then
    if value ~= value or value == huge or value == -huge then
      return "header " .. name .. " must be a finite number, got " .. tostring(value)
    elseif integer_type(value) == "integer" then
      value = format("%d", value)
    else
      -- 3.0 is written as 3: a Content-Length that was computed as a float is still one.
      value = value % 1 == 0 and format("%.0f", value) or tostring(value)
    end
  elseif type(value) ~= "string" then
    return "header " .. name .. " must be a string or a number, got " .. show(value)
  end
  if #head.block + #name + #value > MAX_HEAD then
    return TOO_LONG
  end
  local control = not is_number and control_character(value)
  if control then
    return "header " .. name .. " contains " .. control .. ": " .. show(value)
  end
  local once = noted[small]
  if once and head[small] then
    return given_twice(name)
  end
  local rule = rules[small]
  if rule then
    local problem, apart = rule(head, name, value)
    if problem or apart then
      if last and not problem and small == "content-length" then
        local length = head.length
        last.value, last.length = value, length
        -- A text may have zeros in front of the number.
        last.number = is_number and length ~= 0 and length or nil
      end
      return problem
    end
  end
  if once ~= nil then
    head[small] = true
  elseif not last and order(head, name, small) then
    return nil
  end
  local line = name .. ": " .. value .. "\r\n"
  if last and #value <= LONGEST_KEPT then
    last.value, last.line = value, line
  end
  head.block = head.block .. line
  return nil
end

--- Adds the headers of a list of pairs.
---@param head nibiru.Head
---@param headers table
---@return string? problem
local function add_list(head, headers)
  local count = 0
  while true do
    local pair = headers[count + 1]
    if pair == nil then
      break
    end
    count = count + 1
    if type(pair) ~= "table" then
      return format('headers[%d] must be a pair { "Name", "value" }, got ', count) .. show(pair)
    end
    local problem
    if count > MOST_HEADERS then
      problem = TOO_LONG
    elseif pair[3] ~= nil then
      problem = "a pair has a name and one value, got a third element"
    else
      problem = add(head, pair[1], pair[2])
    end
    if problem then
      return format("headers[%d]: ", count) .. problem
    end
  end
  -- A key that the walk above did not reach would be lost without a message.
  for key in next, headers, count do
    if type(key) ~= "number" then
      return "headers must be a list of pairs or a map, not both: found the key " .. show(key)
    elseif key < 1 or key > count or key % 1 ~= 0 then
      return format("headers is a list with a hole: headers[%d] is nil but there is a headers[", count + 1) .. tostring(key) .. "]"
    end
  end
  return nil
end

--- Adds the headers of a map from names to values, or to arrays of values.
---@param head nibiru.Head
---@param headers table
---@return string? problem
local function add_map(head, headers)
  local total = 0
  for name, value in next, headers do
    local last = known[name]
    if last and last.value == value then
      local problem = add_again(head, name, last)
      if problem then
        return problem
      end
    elseif type(value) == "table" then
      if value[1] == nil then
        return type(name) == "string" and "header " .. name .. " has an empty array of values"
          or "header name must be a string, got " .. show(name)
      end
      local count = 0
      for position in next, value do
        count = count + 1
        if count > MOST_HEADERS then
          return TOO_LONG
        elseif value[count] == nil then
          return "header " .. (type(name) == "string" and name or tostring(name)) .. ": its values must be an array, found the key " .. show(position)
        end
      end
      total = total + count
      if total > MOST_HEADERS then
        return TOO_LONG
      end
      for position = 1, count do
        local problem = add(head, name, value[position])
        if problem then
          return problem
        end
      end
    else
      local problem = add(head, name, value)
      if problem then
        return problem
      end
    end
  end
  return nil
end

--- Whether a response with this status never has a body (RFC 9110 §6.4.1, §15.3.6).
---@param code integer
---@return boolean
function M.bodiless(code)
  return code == 204 or code == 205 or code == 304
end

--- Raises an error where a whole body has another length than its head promises.
---@param head nibiru.Head
---@param length integer  of the body, in bytes
function M.check_length(head, length)
  if head.length and head.length ~= length then
    error(format("the body has %d bytes, but its Content-Length is ", length) .. head.length_text, 0)
  end
end

--- Checks a status and its headers.
---@param status string|number
---@param headers table
---@return nibiru.Head? head
---@return string? problem
function M.check(status, headers)
  local line, code = check_status(status)
  if not line then
    return nil, code --[[@as string]]
  end
  if type(headers) ~= "table" then
    return nil, "headers must be a table, got " .. show(headers)
  end
  ---@type nibiru.Head
  local head = { block = line, code = code, ["content-type"] = false, length = nil, length_text = nil }
  local problem
  if headers[1] ~= nil then
    problem = add_list(head, headers)
  else
    problem = add_map(head, headers)
  end
  if problem then
    return nil, problem
  end
  return head
end

return M
