--- The responses of an Authorizer (FastCGI 1.0 §6.3). With 200 the front end lets the request go on, and takes no headers
--- but `Variable-NAME`; with any other status the response is the client's.
---
--- Called in the place of `head.check` for requests in this role. Never sends anything.

local head, strings = ...

local check, lower = head.check, strings.lower
local concat, gmatch, sub = table.concat, string.gmatch, string.sub

local PREFIX = "variable-"

local M = {}

--- Checks a status and its headers. A 200 keeps only the variables, since Apache would pass other headers on to the client as
--- part of another response. A denial loses the variables, which are not meant for the client.
---@param status string|number
---@param headers table
---@return nibiru.Head? head
---@return string? problem
function M.check(status, headers)
  local given, problem = check(status, headers)
  if not given then
    return nil, problem
  end
  local grants = given.code == 200
  local lines, count = {}, 0
  -- The first line is the status. No value holds a line's end: `check` has refused it.
  for line in gmatch(given.block, "(.-)\r\n") do
    if count == 0 or (lower(sub(line, 1, #PREFIX)) == PREFIX) == grants then
      count = count + 1
      lines[count] = line
    end
  end
  given.block = concat(lines, "\r\n") .. "\r\n"
  if grants then
    given.grants, given.length = true, nil
  end
  return given
end

return M
