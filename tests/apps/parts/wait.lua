-- Announces "started" with its pid, then answers when the test has created the file "go".
local gate = require("gate")

return function(environ, start_response)
  local directory = gate.directory(environ)
  gate.announce(directory, "started", gate.pid())
  gate.wait(directory, "go")
  start_response("200 OK", { { "Content-Type", "text/plain" } })
  return { "waited\n" }
end
