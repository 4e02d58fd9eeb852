--- What an Authorizer may answer (FastCGI 1.0 §6.3). With 200 the front end lets the request go on, and takes nothing
--- but `Variable-NAME` headers; with any other status the response is the client's.
---
--- Called in the place of `head.check` for requests in this role. Never sends anything.

local head = ...

local check, lower = head.check, head.lower
local concat, gmatch, sub = table.concat, string.gmatch, string.sub

local PREFIX = "variable-"

local M = {}

--- Checks a status and its headers. What the other side may not see or does not take is left out: of a 200 all but the
--- variables, since Apache would pass the rest on to the client as part of another response; of a denial the variables,
--- which are not meant for the client.
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
  -- No value holds a line's end, and the first line is the status.
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
