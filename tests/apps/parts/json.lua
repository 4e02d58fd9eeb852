-- Debian's lua-cjson: answers with the body, decoded and encoded again.
local cjson = require("cjson")

return function(environ, start_response)
  local value = cjson.decode(environ["wsgi.input"]:read("a"))
  start_response("200 OK", { { "Content-Type", "application/json" } })
  return { cjson.encode({ got = value }) }
end
