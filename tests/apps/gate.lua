-- The application's side of a gate: a test and its application synchronize by files in a directory of the test.

local M = {}

--- The directory of the gate, which the test passes as ?dir=PATH.
function M.directory(environ)
  return assert(environ.QUERY_STRING:match("dir=([^&]+)"), "no dir= in the query string")
end

--- Creates the file `name`, which is complete as soon as it exists.
function M.announce(directory, name, text)
  local path = directory .. "/" .. name
  local file = assert(io.open(path .. ".new", "w"))
  file:write(text or "")
  file:close()
  assert(os.rename(path .. ".new", path))
end

--- Whether a file or a directory exists.
local function exists(path)
  local file = io.open(path)
  return file ~= nil and file:close()
end

--- Waits until the file `name` exists. A test that ends before removes its directory: then the wait fails, or a process
--- that the application forked would never end.
function M.wait(directory, name)
  while not exists(directory .. "/" .. name) do
    assert(exists(directory), "the test has ended")
    os.execute("sleep 0.02")
  end
end

--- The pid of this process, as a string.
function M.pid()
  local file = assert(io.open("/proc/self/stat"))
  local pid = file:read("*l"):match("^%d+")
  file:close()
  return pid
end

--- Kills this process, as a crash in C would.
function M.die()
  os.execute("kill -9 $PPID")
end

return M
