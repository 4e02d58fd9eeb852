-- Leaves one file per execution, so that a test can count how often a request ran.
local gate = require("gate")

return function(environ, start_response)
  local file = assert(io.open(gate.directory(environ) .. "/executions", "a"))
  file:write("x")
  file:close()
  start_response("200 OK", { { "Content-Type", "text/plain" } })
  return { "counted\n" }
end
