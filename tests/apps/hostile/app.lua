-- An application with C code that writes to its worker's link: /do/TRICK?dir=GATE, see hostile.c. /wait waits at the
-- gate; any other path answers hello.

local M = {}

local gate = require("gate")

-- The number of the running request over the worker's lifetime, from 1.
local serial = 0

function M.application(environ, start_response)
  serial = serial + 1
  local trick = environ.PATH_INFO:match("^/do/([%w_]+)")
  if trick then
    gate.announce(gate.directory(environ), trick, gate.pid())
    local hostile = assert(package.loadlib(os.getenv("HOSTILE"), "hostile"))
    hostile(trick, tostring(serial))
  elseif environ.PATH_INFO == "/wait" then
    gate.announce(gate.directory(environ), "started", gate.pid())
    gate.wait(gate.directory(environ), "go")
  end
  start_response("200 OK", { { "Content-Type", "text/plain" } })
  return { "hello\n" }
end

return M
