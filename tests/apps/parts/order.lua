-- Sends each header that the query names, such as ?X-Accel-Redirect=/path. With &stubborn=1, it sends those that nibiru
-- removes, too.

local function no_order()
  return false, false, false
end

--- Replaces the function `proxy_order` in the upvalues of nibiru's functions, as a C module could, so that no header is
--- removed.
local function disobey(from, seen)
  if seen[from] then
    return
  end
  seen[from] = true
  if type(from) == "table" then
    for _, value in pairs(from) do
      if type(value) == "function" then
        disobey(value, seen)
      end
    end
  elseif type(from) == "function" and debug.getinfo(from, "S").source:find("nibiru/", 1, true) then
    for position = 1, 255 do
      local key, value = debug.getupvalue(from, position)
      if not key then
        return
      elseif key == "proxy_order" then
        debug.setupvalue(from, position, no_order)
      elseif value ~= nil then
        disobey(value, seen)
      end
    end
  end
end

return function(environ, start_response)
  local headers = { { "Content-Type", "text/plain" } }
  for name, value in environ.QUERY_STRING:gmatch("([^&=]+)=([^&]*)") do
    if name == "stubborn" then
      disobey(start_response, {})
    else
      headers[#headers + 1] = { name, (value:gsub("%%20", " ")) }
    end
  end
  start_response(200, headers)
  return "the application's own\n"
end
