--- The check of a response head: status, headers, and the body's length that they promise.
---
--- Called by `start_response` and the short form. Gives finished CGI header lines, or a message that names the header at fault.
--- Never sends anything.

local host = ...

local byte, find, format, gmatch, gsub, lower, match, sub =
  string.byte, string.find, string.format, string.gmatch, string.gsub, string.lower, string.match, string.sub
local error, next, tonumber, tostring, type = error, next, tonumber, tostring, type
local integer_type = math.type or function() end
local huge, log, proxy_order = math.huge, host.log, host.proxy_order

---@class nibiru.Head
---@field block string    header lines, each with its CRLF; without Content-Length and the blank line
---@field code integer    200..599
---@field length integer? the application's Content-Length
---@field length_text string?
---@field replaced boolean?  by an order of the application's the proxy sends another body in the response's place
---@field grants boolean?   the head lets an Authorizer's request go on, and is sent without a body
---@field ["content-type"] boolean  the head has a Content-Type; the same for every other name in `noted`

local M = {}

-- Statuses and header names that have been checked, at most so many: applications use a few over and over. The bound keeps an
-- application that makes names up from filling the memory.
local REMEMBERED = 512
local status_lines, status_codes, statuses_kept = {}, {}, 0
local lower_names, names_kept = {}, 0

-- The last value of each such name, and its line: most headers have the same value in every response.
local last_values, last_lines = {}, {}
local LONGEST_KEPT = 256

-- Bytes of a value in a message, at most.
local SHOWN = 60

-- Bytes of a head, at most. A longer head is refused at once, since it may have no end.
local MAX_HEAD = host.max_head
local TOO_LONG = format("the response head has more than %d bytes", MAX_HEAD)

-- Headers of a head, at most: a line has a name of one byte at least, ": " and its end. Headers that are left out count as well.
local MOST_HEADERS = MAX_HEAD / 4

local SMALL = {}
for letter in gmatch("ABCDEFGHIJKLMNOPQRSTUVWXYZ", ".") do
  SMALL[letter] = lower(letter)
end

--- A name in lower case, in every locale: the application may set one. Turkish has a small I of its own, and letters beyond ASCII
--- have no place in a name.
---@param name string
---@return string
function M.lower(name)
  return (gsub(name, "[A-Z]", SMALL))
end
lower = M.lower

--- A value as messages show it.
---@param value any
---@return string
local function show(value)
  if type(value) == "string" then
    return format("%q", #value > SHOWN and sub(value, 1, SHOWN) .. "…" or value)
  elseif type(value) == "number" or type(value) == "boolean" then
    return tostring(value)
  end
  return type(value)
end

-- PEP 3333: values "must not include any control characters"; RFC 9110 §5.5 lets a tab pass.
---@param text string
---@return string? description of the first control character
local function control_character(text)
  if not find(text, "%c") then
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

--- The first line of a head.
---@param status any
---@return string? line
---@return integer|string code  or a message
local function status_line(status)
  local line = status_lines[status]
  if line then
    return line, status_codes[status]
  end
  local code, reason
  if type(status) == "number" then
    code = status % 1 == 0 and status or nil
  elseif type(status) == "string" then
    if #status > MAX_HEAD then
      return nil, TOO_LONG
    end
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
    reason = host.reason(code)
  end
  line = format("Status: %d ", code) .. reason .. "\r\n"
  if statuses_kept < REMEMBERED and #line <= LONGEST_KEPT then
    statuses_kept = statuses_kept + 1
    status_lines[status], status_codes[status] = line, code
  end
  return line, code
end

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
    lower_names[name] = small
  end
  return small
end

-- Names that a head notes once it has them. Names with `true` have one value (RFC 9110, RFC 9111, RFC 6266) and may come once
-- only: of two types nginx 1.22 sends the last and Caddy both; of two targets both send both, and clients choose as they like.
local noted = {
  ["content-encoding"] = false,
  ["age"] = true,
  ["content-disposition"] = true,
  ["content-location"] = true,
  ["content-range"] = true,
  ["content-type"] = true,
  ["date"] = true,
  ["etag"] = true,
  ["expires"] = true,
  ["last-modified"] = true,
  ["location"] = true,
  ["retry-after"] = true,
  ["server"] = true,
}

local function given_twice(name)
  return "header " .. name .. " is given twice"
end

local function hop_by_hop(_, name)
  return "header " .. name .. " is hop-by-hop: it belongs to the connection, which the proxy owns"
end

-- Lines of `tell_once`, at most: an application can make up names for its proxy without end.
local MOST_TOLD = 32
local told, told_count = {}, 0

--- Logs a warning once in this worker.
---@param what string  the warning's key
---@param message string
function M.tell_once(what, message)
  if not told[what] and told_count < MOST_TOLD then
    told[what], told_count = true, told_count + 1
    log("warn", message .. " (each worker says so once)")
  end
end

--- The rule of a header that changes nothing behind a proxy, as frameworks with a server of their own and examples of event
--- streams send it: left out, and logged once by each worker. A value that would change how the body is read is an error.
---@param harmless table<string, true>?  values, in lower case; every one where there is no table
local function left_out(harmless)
  return function(head, name, value)
    if harmless and not harmless[lower(match(value, "^[ \t]*(.-)[ \t]*$"))] then
      return hop_by_hop(head, name) .. ", got " .. show(value)
    end
    M.tell_once(lower(name), "header " .. name .. ": " .. value .. " is left out: the connection is the proxy's")
    return nil, true
  end
end

-- The rules of some header names. Each function returns a problem, or nil and whether the line is kept out of the block.
local rules = {
  -- PEP 3333, "Other HTTP Features": applications must not use hop-by-hop headers.
  ["connection"] = left_out({ ["close"] = true, ["keep-alive"] = true }),
  ["keep-alive"] = left_out(),
  ["proxy-authenticate"] = hop_by_hop,
  ["proxy-authorization"] = hop_by_hop,
  ["proxy-connection"] = hop_by_hop,
  ["te"] = hop_by_hop,
  ["trailer"] = hop_by_hop,
  ["trailers"] = hop_by_hop,
  -- A body in another coding (`gzip`) would reach the client undecoded.
  ["transfer-encoding"] = left_out({ ["chunked"] = true, ["identity"] = true }),
  ["upgrade"] = hop_by_hop,
  -- In CGI this header is the status, which the application gives apart from the headers.
  ["status"] = function()
    return "header Status is not allowed: the status is given apart from the headers"
  end,
  ["content-length"] = function(head, _, value)
    if head.length then
      return given_twice("Content-Length")
    end
    -- 15 digits stay exact in the doubles of Lua 5.1 and LuaJIT.
    if #value > 15 or not find(value, "^%d+$") then
      return "header Content-Length must be a number of bytes, got " .. show(value)
    end
    head.length, head.length_text = tonumber(value), value
    return nil, true
  end,
}

--- The rule of a header with orders for the proxy. Without `--proxy-headers` the header is left out and not refused, so that an
--- application that was written for another server goes on. The warning comes once, and not with every response.
---@return boolean left_out
local function order(head, name, small)
  local _, guarded, replaces_body = proxy_order(small)
  if guarded then
    M.tell_once(small, "header " .. name .. " is left out: it gives the proxy orders (--proxy-headers " .. name .. " lets it pass)")
  elseif replaces_body then
    head.replaced = true
  end
  return guarded
end

--- Adds one header to a head.
---@param head nibiru.Head
---@param name any
---@param value any
---@return string? problem
local function add(head, name, value)
  local small = lower_names[name]
  if small and value ~= nil and last_values[name] == value then
    local once = noted[small]
    if once ~= nil then
      if once and head[small] then
        return given_twice(name)
      end
      head[small] = true
    end
    head.block = head.block .. last_lines[name]
    return #head.block > MAX_HEAD and TOO_LONG or nil
  end
  if not small then
    local problem
    small, problem = check_name(name)
    if not small then
      return problem
    end
  end
  if type(value) == "number" then
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
  local control = control_character(value)
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
      return problem
    end
  end
  if once ~= nil then
    head[small] = true
  elseif not lower_names[name] and order(head, name, small) then
    return nil
  end
  local line = name .. ": " .. value .. "\r\n"
  if lower_names[name] and #value <= LONGEST_KEPT then
    last_values[name], last_lines[name] = value, line
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
    if type(value) == "table" then
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
  local line, code = status_line(status)
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
