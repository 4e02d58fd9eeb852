-- Takes a body to a file, and sends a file: what `benches/transfers` measures. `transfers.php` does the same.

local BLOCK = 64 * 1024

local function application(environ)
  local path = environ.QUERY_STRING:match("^file=(.+)$")
  if environ.REQUEST_METHOD == "GET" then
    return 200, { ["Content-Type"] = "application/octet-stream" }, environ["wsgi.file_wrapper"](assert(io.open(path, "rb")), BLOCK)
  end
  -- Over the file that is there.
  local file = assert(io.open(path, "r+b"))
  file:setvbuf("no")
  for block in function() return environ["wsgi.input"]:read(BLOCK) end do
    assert(file:write(block))
  end
  file:close()
  return 200, {}, "taken\n"
end

return { application = application }
