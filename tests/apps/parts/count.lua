-- Appends a byte for each execution, so that a test can count the executions of a request.
local gate = require("gate")

return function(environ, start_response)
  local file = assert(io.open(gate.directory(environ) .. "/executions", "a"))
  file:write("x")
  file:close()
  start_response("200 OK", { { "Content-Type", "text/plain" } })
  return { "counted\n" }
end
