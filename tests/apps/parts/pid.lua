local gate = require("gate")

return function(_, start_response)
  start_response("200 OK", { { "Content-Type", "text/plain" } })
  return { gate.pid() }
end
