-- Sends the file that the query names, with its own headers: ?path=…, and any of &type=…&status=…&encoding=…
local function unescape(value)
  return (value:gsub("%%(%x%x)", function(digits)
    return string.char(tonumber(digits, 16))
  end))
end

return function(environ, start_response)
  local query = {}
  for key, value in environ.QUERY_STRING:gmatch("([^&=]+)=([^&]*)") do
    query[key] = unescape(value)
  end
  local body, problem = environ["wsgi.file_wrapper"](query.path)
  if not body then
    start_response("404 Not Found", { { "Content-Type", "text/plain" } })
    return problem .. "\n"
  end
  local headers = {
    { "Content-Type", query.type or "application/x-tablet" },
    { "Content-Disposition", 'attachment; filename="tablet"' },
    { "Cache-Control", "private, max-age=60" },
    { "X-Own", "stays" },
    { "ETag", '"own"' },
    { "Last-Modified", "Tue, 01 Jan 2019 00:00:00 GMT" },
    { "Expires", "Thu, 01 Jan 2099 00:00:00 GMT" },
    { "Set-Cookie", "a=1" },
    { "Content-Security-Policy", "sandbox" },
  }
  if query.encoding then
    headers[#headers + 1] = { "Content-Encoding", query.encoding }
  end
  start_response(query.status or "200", headers)
  return body
end
