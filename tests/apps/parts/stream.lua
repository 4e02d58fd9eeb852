-- Streams three chunks; each but the first is made when the test has seen the one before.
local gate = require("gate")

return function(environ, start_response)
  local directory = gate.directory(environ)
  local chunk = 0
  start_response("200 OK", { { "Content-Type", "text/plain" }, { "X-Accel-Buffering", "no" } })
  return function()
    chunk = chunk + 1
    if chunk > 3 then
      return nil
    end
    if chunk > 1 then
      gate.wait(directory, "seen" .. (chunk - 1))
    end
    return "chunk " .. chunk .. "\n"
  end
end
