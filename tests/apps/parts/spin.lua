-- Announces "started" with its pid, then never returns and never calls anything.
local gate = require("gate")

return function(environ)
  gate.announce(gate.directory(environ), "started", gate.pid())
  while true do
  end
end
