-- `wsgi.file_wrapper` without a proxy that sends files.

local closed, reads

--- A file that contains `text`, positioned at its beginning.
local function file_of(text)
  local file = assert(io.tmpfile())
  file:write(text)
  file:seek("set")
  return file
end

--- An object with `read` and `close` that counts the calls of both.
local function object(chunks)
  closed, reads = 0, 0
  return {
    read = function()
      reads = reads + 1
      return chunks[reads]
    end,
    close = function()
      closed = closed + 1
    end,
  }
end

local function wrapping(headers, file, block_size)
  return function(environ, start_response)
    start_response(200, headers)
    return environ["wsgi.file_wrapper"](file(), block_size)
  end
end

local function closed_once()
  assert(closed == 1, "closed " .. tostring(closed) .. " times")
end

-- The methods of Lua's file handles, which some cases replace.
local methods = debug.getmetatable(io.stdout).__index
local originals = {}
for name, method in pairs(methods) do
  originals[name] = method
end

--- A file whose contents change after the first block.
local function changing(before, after)
  return function(environ, start_response)
    local path = os.tmpname()
    local function write(contents)
      local file = assert(io.open(path, "wb"))
      file:write(contents)
      file:close()
    end
    write(before)
    local file = assert(io.open(path, "rb"))
    file:setvbuf("no")
    local reads = 0
    debug.sethook(function()
      if debug.getinfo(2, "f").func == originals.read then
        reads = reads + 1
        if reads == 2 then
          write(after)
        end
      end
    end, "c")
    start_response(200, {})
    return environ["wsgi.file_wrapper"](file, 2)
  end
end

local function restore()
  debug.sethook()
  for name, method in pairs(originals) do
    methods[name] = method
  end
end

local text = "Content-Type: text/plain; charset=utf-8|"
local failed = "500 Internal Server Error"
local this = "environ.lua"
local function length_of(path)
  local file = assert(io.open("tests/lua/" .. path, "rb"))
  local length = file:seek("end")
  file:close()
  return ("%d"):format(length)
end

return {
  { name = "a file is sent in blocks, with its length", app = wrapping({}, function() return file_of("xxxxx") end, 2),
    head = text .. "Content-Length: 5||", chunks = { "xx", "xx", "x" } },
  { name = "a file is sent from its position on", app = wrapping({}, function()
      local file = file_of("head\nbody")
      file:read("*l")
      return file
    end), head = text .. "Content-Length: 4||", body = "body" },
  { name = "an empty file", app = wrapping({}, function() return file_of("") end), head = text .. "Content-Length: 0||", body = "" },
  { name = "a pipe has no length", app = wrapping({}, function()
      local pipe = io.popen("printf 'first\\nsecond'")
      assert(pipe:read("*l") == "first")
      return pipe
    end), head = text .. "|", body = "second" },
  { name = "a file of /proc, whose size is 0", app = wrapping({}, function() return assert(io.open("/proc/self/cmdline", "rb")) end),
    head = text .. "|" },
  { name = "the application's length ends a longer file", app = function(environ, start_response)
      local file = file_of("0123456789")
      file:seek("set", 3)
      start_response(206, { { "Content-Range", "bytes 3-6/10" }, { "Content-Length", 4 } })
      return environ["wsgi.file_wrapper"](file, 3)
    end, status = "206 Partial Content", chunks = { "345", "6" } },
  { name = "a file shorter than the application's length", app = wrapping({ ["Content-Length"] = 6 }, function() return file_of("12345") end),
    status = failed, log = "the wrapped file has 5 more bytes, but the Content-Length is 6" },
  { name = "a file that shrinks", outcome = "Broken", chunks = { "ab" }, app = changing("abcdef", "ab"), after = restore,
    head = text .. "Content-Length: 6||", log = "the body ended after 2 bytes, but its Content-Length is 6" },
  { name = "a file that grows", chunks = { "ab", "cd", "ef" }, app = changing("abcdef", "abcdefgh"), after = restore,
    head = text .. "Content-Length: 6||" },
  { name = "HEAD has the length and reads nothing", method = "HEAD", app = wrapping({}, function() return file_of("12345") end),
    head = text .. "Content-Length: 5||", chunks = {} },
  { name = "HEAD closes and does not read an object", method = "HEAD", app = wrapping({}, function() return object({ "a" }) end),
    head = text .. "|", chunks = {}, after = function()
      closed_once()
      assert(reads == 0)
    end },
  { name = "304 reads nothing", app = function(environ)
      return 304, {}, environ["wsgi.file_wrapper"](object({ "a" }))
    end, status = "304 Not Modified", head = "|", chunks = {}, after = closed_once },
  { name = "304 has no length", app = function(environ)
      return 304, {}, environ["wsgi.file_wrapper"](this)
    end, status = "304 Not Modified", head = "|", chunks = {} },
  { name = "an object is read and closed once", app = wrapping({}, function() return object({ "a", "b" }) end),
    head = text .. "|", chunks = { "a", "b" }, after = closed_once },
  { name = "an object that ends with an empty string", app = wrapping({}, function() return object({ "a", "", "b" }) end), body = "a", after = closed_once },
  { name = "an object whose reads exceed the requested length", app = wrapping({ ["Content-Length"] = 3 }, function() return object({ "ab", "cd" }) end),
    chunks = { "ab", "c" }, after = closed_once },
  { name = "an object whose reads are not strings", app = wrapping({}, function() return object({ 5 }) end), status = failed,
    log = "must read strings, got number", after = closed_once },
  { name = "a failed read is not the end", outcome = "Broken", body = "a", log = "cannot read the wrapped file: disk on fire",
    app = wrapping({}, function()
      local count = 0
      return { read = function()
        count = count + 1
        if count == 1 then return "a" end
        return nil, "disk on fire"
      end }
    end) },
  { name = "a client that leaves", patience = 3, outcome = "Aborted", after = closed_once,
    app = wrapping({}, function() return object({ "ab", "cd", "ef" }) end) },
  { name = "closed by the application too", after = closed_once, body = "", app = function(environ)
      local body = environ["wsgi.file_wrapper"](object({}))
      body:close()
      return 200, {}, body
    end },
  { name = "within another body it is read like any function", body = "<12345>", app = function(environ, start_response)
      start_response(200, {})
      local body, part = environ["wsgi.file_wrapper"](file_of("12345")), 0
      return function()
        part = part + 1
        return part == 1 and "<" or part == 2 and body() or part == 3 and ">" or nil
      end
    end, head = text .. "|" },
  { name = "after write there is no length", chunks = { "a", "12345" }, head = text .. "|", app = function(environ, start_response)
      start_response(200, {})("a")
      return environ["wsgi.file_wrapper"](file_of("12345"))
    end },
  { name = "the gateway sends a file", takes_files = true, files = "0+5", body = "12345", head = text .. "Content-Length: 5||",
    app = wrapping({}, function() return file_of("12345") end, 2) },
  { name = "the gateway sends a file from its position on, up to the application's length", takes_files = true, files = "3+4", body = "3456",
    app = function(environ, start_response)
      local file = file_of("0123456789")
      file:seek("set", 3)
      start_response(206, { { "Content-Length", 4 } })
      return environ["wsgi.file_wrapper"](file, 3)
    end },
  { name = "the gateway sends what was written just before", takes_files = true, files = "0+4", body = "text", app = function(environ)
      local file = assert(io.tmpfile())
      file:setvbuf("full", 65536)
      file:write("text")
      file:seek("set")
      return 200, {}, environ["wsgi.file_wrapper"](file)
    end },
  { name = "the gateway sends the rest of a body with a length", takes_files = true, files = "0+5", chunks = { "ab", "12345" },
    head = text .. "Content-Length: 7||", app = function(environ, start_response)
      start_response(200, { { "Content-Length", 7 } })("ab")
      return environ["wsgi.file_wrapper"](file_of("12345"))
    end },
  { name = "a file that the gateway sends is closed, and its position is at the end", takes_files = true, files = "0+5", body = "12345",
    app = function(environ)
      local file = file_of("12345")
      local body = environ["wsgi.file_wrapper"](file)
      local close = body.close
      body.close = function(self)
        closed = file:seek("cur") == 5 and 1
        close(self)
        assert(io.type(file) == "closed file")
      end
      closed = nil
      return 200, {}, body
    end, after = closed_once },
  { name = "without a length the gateway sends no file", takes_files = true, files = "", body = "a12345", app = function(environ, start_response)
      start_response(200, {})("a")
      return environ["wsgi.file_wrapper"](file_of("12345"))
    end },
  { name = "the gateway sends no object, no pipe and no file of the kernel's", takes_files = true, files = "", body = "abpiped",
    app = function(environ, start_response)
      local write = start_response(200, { { "Content-Length", 7 } })
      local wrapped = environ["wsgi.file_wrapper"](object({ "a", "b" }))
      for chunk in wrapped do write(chunk) end
      return environ["wsgi.file_wrapper"](io.popen("printf piped"))
    end },
  { name = "a shorter file than the length is not sent by the gateway", takes_files = true, files = "", outcome = "Broken",
    chunks = { "a", "12345" }, log = "the body ended after 6 bytes, but its Content-Length is 9", app = function(environ, start_response)
      start_response(200, { { "Content-Length", 9 } })("a")
      return environ["wsgi.file_wrapper"](file_of("12345"))
    end },
  { name = "HEAD has the gateway send nothing", method = "HEAD", takes_files = true, files = "", chunks = {},
    app = wrapping({}, function() return file_of("12345") end), head = text .. "Content-Length: 5||" },
  { name = "a client that leaves before the file", takes_files = true, patience = 3, outcome = "Aborted", files = "",
    app = wrapping({}, function() return file_of("12345") end) },
  -- The cause is from Lua, and Lua 5.5 gives none.
  { name = "a directory fails before anything is sent", status = failed, log = "cannot read the wrapped file: ",
    app = wrapping({}, function() return assert(io.open("/", "rb")) end) },
  { name = "a number is not a file", app = function(environ) environ["wsgi.file_wrapper"](5) end, status = failed,
    log = "file must be a file handle or a path, got number" },
  { name = "half a block", app = function(environ) environ["wsgi.file_wrapper"](io.stdin, 0.5) end, status = failed,
    log = "block_size must be a whole number of bytes" },

  { name = "methods that the application has replaced are not called", after = restore, body = "12345", app = function(environ)
      local body = environ["wsgi.file_wrapper"](file_of("12345"), 2)
      for name in pairs(originals) do
        methods[name] = function()
          error("replaced")
        end
      end
      return 200, {}, body
    end, head = text .. "Content-Length: 5||" },
  { name = "fields that the application adds to a wrapped file are ignored", app = function(environ)
      local body = environ["wsgi.file_wrapper"](file_of("12345"))
      for name, value in pairs({ file = object({ "x" }), left = 1, order = "X-Evil: 1\r\n", block_size = 1, closed = true }) do
        rawset(body, name, value)
      end
      assert(getmetatable(body) == false and not pcall(setmetatable, body, {}))
      return 200, {}, body
    end, head = text .. "Content-Length: 5||", chunks = { "12345" } },
  { name = "a close of the application's own is called", after = closed_once, app = function(environ)
      local file = object({})
      local body = environ["wsgi.file_wrapper"](file_of("12345"))
      body.close = file.close
      return 200, {}, body
    end, body = "12345" },

  { name = "a path from the root is opened and sent", app = wrapping({}, function() return this end),
    head = text .. "Content-Length: " .. length_of(this) .. "||" },
  { name = "a missing path", app = function(environ)
      local body, problem, number = environ["wsgi.file_wrapper"]("none/such")
      assert(body == nil and number == 2)
      return 404, {}, (problem:gsub("/.*/tests/lua", "ROOT"))
    end, status = "404 Not Found", body = "cannot open ROOT/none/such: No such file or directory" },
  { name = "a missing path whose error is not checked", app = function(environ)
      return 200, {}, environ["wsgi.file_wrapper"]("none/such")
    end, status = failed, log = "no body (nil): cannot open " },
  { name = "paths that are not files", body = "ok", app = function(environ)
      for path, what in pairs({
        ["."] = "Is a directory",
        [""] = "Is a directory",
        ["/dev/null"] = "Not a regular file",
        ["environ.lua\0.txt"] = "file name contained an unexpected NUL byte",
        ["environ.lua/"] = "Not a directory",
        ["/../etc/hostname"] = "Above the root directory",
      }) do
        local body, problem = environ["wsgi.file_wrapper"](path)
        assert(body == nil and problem:find(what, 1, true), problem)
      end
      return 200, {}, "ok"
    end },
}
