-- Lets a test say when an application goes on: both meet at files in a directory the test owns.

local M = {}

--- The directory that the test gave as ?dir=PATH.
function M.directory(environ)
  return assert(environ.QUERY_STRING:match("dir=([^&]+)"), "no dir= in the query string")
end

--- Makes the file `name`, complete from the moment it appears.
function M.announce(directory, name, text)
  local path = directory .. "/" .. name
  local file = assert(io.open(path .. ".new", "w"))
  file:write(text or "")
  file:close()
  assert(os.rename(path .. ".new", path))
end

--- Whether a file, or a directory, is there.
local function exists(path)
  local file = io.open(path)
  return file ~= nil and file:close()
end

--- Returns once the file `name` is there. A test that ends first takes its directory away: then nothing is worth waiting for,
--- and a process that the application forked would outlive everybody.
function M.wait(directory, name)
  while not exists(directory .. "/" .. name) do
    assert(exists(directory), "the test has gone")
    os.execute("sleep 0.02")
  end
end

--- The process that runs this Lua.
function M.pid()
  local file = assert(io.open("/proc/self/stat"))
  local pid = file:read("*l"):match("^%d+")
  file:close()
  return pid
end

--- Dies at once, as a crash in C would.
function M.die()
  os.execute("kill -9 $PPID")
end

return M
