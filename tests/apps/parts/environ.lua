-- Answers with every string of the environ as a line NAME=value, or with ?only=NAME only that value, byte for byte.
return function(environ, start_response)
  local only = environ.QUERY_STRING:match("^only=([%w_.]+)")
  if only then
    local value = environ[only]
    start_response(value and "200 OK" or "404 Not Found", { { "Content-Type", "application/octet-stream" } })
    return { value or "" }
  end
  local lines = {}
  for name, value in pairs(environ) do
    if type(value) == "string" then
      lines[#lines + 1] = name .. "=" .. value .. "\n"
    end
  end
  table.sort(lines)
  start_response("200 OK", { { "Content-Type", "text/plain" } })
  return { table.concat(lines) }
end
