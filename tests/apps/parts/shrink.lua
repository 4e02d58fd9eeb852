-- Sends a file of two blocks, which is truncated after the first. The second is read when the test has seen the first.
local gate = require("gate")

return function(environ, start_response)
  local directory = gate.directory(environ)
  local path = directory .. "/shrinks"
  local function write(count)
    local file = assert(io.open(path, "wb"))
    file:write(("x"):rep(count))
    file:close()
  end
  write(20000)
  local file = assert(io.open(path, "rb"))
  local read, reads = file.read, 0
  debug.sethook(function()
    if debug.getinfo(2, "f").func == read then
      reads = reads + 1
      if reads == 2 then
        debug.sethook()
        gate.wait(directory, "go")
        write(10)
      end
    end
  end, "c")
  start_response(200, { { "Content-Type", "text/plain" }, { "X-Accel-Buffering", "no" } })
  return environ["wsgi.file_wrapper"](file, 10000)
end
