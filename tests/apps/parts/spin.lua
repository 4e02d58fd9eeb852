-- Announces "started" with its pid, then loops forever without a call.
local gate = require("gate")

return function(environ)
  gate.announce(gate.directory(environ), "started", gate.pid())
  while true do
  end
end
