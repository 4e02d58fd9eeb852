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

--- Returns once the file `name` is there.
function M.wait(directory, name)
  while true do
    local file = io.open(directory .. "/" .. name)
    if file then
      file:close()
      return
    end
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
