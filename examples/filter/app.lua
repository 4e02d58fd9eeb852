-- Makes a web page of a text file. A FastCGI filter: nibiru serve app
--
-- The file comes with the request, as `nibiru.filter_data`. It is read and sent in blocks, so that a large one is never
-- in memory whole.

local BLOCK = 65536
local ESCAPES = { ["&"] = "&amp;", ["<"] = "&lt;" }

return function(environ)
  local file = environ["nibiru.filter_data"]
  if not file then
    return 500, {}, "This application is a filter, and the request has no file.\n"
  end
  local headers = { { "Content-Type", "text/html; charset=utf-8" } }
  local changed = tonumber(environ.FCGI_DATA_LAST_MOD)
  if changed then
    headers[2] = { "Last-Modified", os.date("!%a, %d %b %Y %H:%M:%S GMT", changed) }
  end
  return 200, headers, coroutine.wrap(function()
    coroutine.yield('<!doctype html>\n<meta name="viewport" content="width=device-width, initial-scale=1">\n<pre>\n')
    for block in file:lines(BLOCK) do
      coroutine.yield((block:gsub("[&<]", ESCAPES)))
    end
    coroutine.yield("</pre>\n")
  end)
end
