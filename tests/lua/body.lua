-- Every form of a body, valid and invalid, and the calls of its `close`.

local nibiru = require("nibiru")

local function starting(body)
  return function(_, start_response)
    start_response(200, { { "X-A", "1" } })
    return body()
  end
end

local closed = 0

--- A body whose `close` is counted; `after` must see exactly one.
local function closing(body, metatable)
  return function()
    closed = 0
    body.close = function(self)
      assert(self == body, "close must get its body")
      closed = closed + 1
    end
    return setmetatable(body, metatable)
  end
end

local function closed_once()
  assert(closed == 1, "close ran " .. closed .. " times")
end

--- A function that gives each value in turn, then nil.
local function giving(...)
  local values, position = { ... }, 0
  return function()
    position = position + 1
    return values[position]
  end
end

local text = "X-A: 1|Content-Type: text/plain; charset=utf-8|"

local cases = {
  { name = "string", app = starting(function() return "hello" end), head = text .. "Content-Length: 5||", body = "hello" },
  { name = "empty string", app = starting(function() return "" end), head = text .. "Content-Length: 0||", body = "" },
  { name = "bytes", app = starting(function() return "a\0b" end), body = "a\0b" },
  { name = "array", app = starting(function() return { "a", "", "bc" } end), head = text .. "Content-Length: 3||", chunks = { "abc" } },
  { name = "array of one", app = starting(function() return { "abc" } end), head = text .. "Content-Length: 3||", chunks = { "abc" } },
  { name = "empty array", app = starting(function() return {} end), head = text .. "Content-Length: 0||", chunks = {} },
  { name = "function", app = starting(function() return giving("a", "", "b") end), head = text .. "|", chunks = { "a", "b" } },
  { name = "function without chunks", app = starting(function() return giving() end), head = text .. "Content-Length: 0||", chunks = {} },
  { name = "function with empty chunks", app = starting(function() return giving("", "") end), head = text .. "Content-Length: 0||", chunks = {} },
  { name = "coroutine", app = starting(function()
    return coroutine.wrap(function()
      coroutine.yield("a")
      coroutine.yield("b")
    end)
  end), chunks = { "a", "b" } },
  { name = "ipairs", app = starting(function() return ipairs({ "a", "b" }) end), head = text .. "|", chunks = { "a", "b" } },
  { name = "pairs", app = starting(function() return pairs({ key = "value" }) end), chunks = { "key" } },
  { name = "gmatch", app = starting(function() return ("a b"):gmatch("%a") end), chunks = { "a", "b" } },
  { name = "values of the application's own generic for", app = starting(function()
    return function(state, control)
      assert(state == "state")
      if control < 3 then
        return control + 1, "chunk" .. control
      end
    end, "state", 1
  end), chunks = { "chunk1", "chunk2" } },
  { name = "callable table", app = starting(function()
    local next_chunk = giving("a", "b")
    return setmetatable({}, { __call = next_chunk })
  end), chunks = { "a", "b" } },

  { name = "array with close", app = starting(closing({ "a", "b" })), chunks = { "ab" }, after = closed_once },
  { name = "empty array with close", app = starting(closing({})), chunks = {}, after = closed_once },
  { name = "callable with close", app = starting(closing({}, { __call = giving("a", "b") })), chunks = { "a", "b" }, after = closed_once },
  { name = "close of a metatable", app = starting(function()
    closed = 0
    return setmetatable({ "a" }, { __index = { close = function() closed = closed + 1 end } })
  end), body = "a", after = closed_once },
  { name = "close after an error in the body", app = starting(closing({}, { __call = function() error("broken") end })),
    status = "500 Internal Server Error", log = "broken", after = closed_once },
  { name = "close after a bad chunk", app = starting(closing({ "a", 5 })),
    status = "500 Internal Server Error", log = "body[2] is a number", after = closed_once },
  { name = "close after a wrong length", app = function(_, start_response)
      start_response(200, { { "Content-Length", 5 } })
      return closing({ "a" })()
    end, status = "500 Internal Server Error", log = "1 bytes", after = closed_once },
  { name = "close after a head that never came", app = function() return closing({ "a" })() end,
    status = "500 Internal Server Error", log = "start_response was not called", after = closed_once },
  { name = "close in the short form with a bad head", app = function() return 99, {}, closing({ "a" })() end,
    status = "500 Internal Server Error", log = "status must be", after = closed_once },
  { name = "close for HEAD", method = "HEAD", app = starting(closing({}, { __call = giving("a", "b") })),
    head = text .. "|", chunks = {}, after = closed_once },
  { name = "close after the client has left", patience = 1, outcome = "Aborted",
    app = starting(closing({}, { __call = giving("a", "b", "c") })), after = closed_once },
  { name = "no chunk is requested after the client has left", patience = 0, outcome = "Aborted",
    app = starting(function()
      local calls = 0
      return function()
        calls = calls + 1
        assert(calls == 1, "a chunk is requested after the client has left")
        return "a"
      end
    end) },

  { name = "short form", app = function() return 201, { ["X-A"] = "1" }, "made" end, status = "201 Created",
    head = text .. "Content-Length: 4||", body = "made" },
  { name = "short form with a string", app = function() return "201 Done", {}, { "ma", "de" } end, status = "201 Done", body = "made" },
  { name = "short form with a function", app = function() return 200, {}, giving("a", "b") end, chunks = { "a", "b" } },
  { name = "short form with a triple", app = function() return 200, {}, ipairs({ "a", "b" }) end, chunks = { "a", "b" } },
  { name = "short form with close", app = function() return 200, {}, closing({ "a" })() end, body = "a", after = closed_once },
  { name = "short form without a body", app = function() return 200, {} end,
    status = "500 Internal Server Error", log = "returned no body (nil)" },
  { name = "short form without headers", app = function() return 200, nil, "x" end,
    status = "500 Internal Server Error", log = "headers must be a table, got nil" },

  { name = "write", app = function(_, start_response)
      local write = start_response(200, {})
      write("a")
      write("")
      write("b")
      return { "c", "d" }
    end, chunks = { "a", "b", "cd" }, head = "Content-Type: text/plain; charset=utf-8||" },
  { name = "write of nothing, and no body", app = function(_, start_response)
      start_response(200, {})("")
      return {}
    end, chunks = {}, head = "Content-Type: text/plain; charset=utf-8|Content-Length: 0||" },
  { name = "write whose error the application catches", app = function(_, start_response)
      local write = start_response(200, { { "Content-Length", 2 } })
      write("ab")
      assert(not pcall(write, "c"))
      return {}
    end, chunks = { "ab" }, head = "Content-Type: text/plain; charset=utf-8|Content-Length: 2||" },
  { name = "write and then an iterator", app = function(_, start_response)
      start_response(200, {})("a")
      return giving("b", "c")
    end, chunks = { "a", "b", "c" } },
  { name = "write of a number", app = function(_, start_response)
      start_response(200, {})(5)
      return ""
    end, status = "500 Internal Server Error", log = "chunk must be a string, got number" },
  { name = "write to a client that has left", patience = 0, outcome = "Aborted", app = function(_, start_response)
      start_response(200, {})("a")
      error("must not get here")
    end },

  { name = "sleep", app = function() return 200, {}, tostring(nibiru.sleep(0)) end, body = "true" },
  { name = "sleep ends when the client leaves", patience = 0, app = function()
      assert(nibiru.sleep(3600) == false)
      return 200, {}, ""
    end, status = "200 OK" },
  { name = "sleep of a string", app = function() nibiru.sleep("1") end,
    status = "500 Internal Server Error", log = "seconds must be a number, got string" },
  { name = "sleep of a negative number", app = function() nibiru.sleep(-1) end,
    status = "500 Internal Server Error", log = "seconds must not be negative, got -1" },
  { name = "sleep of NaN", app = function() nibiru.sleep(0 / 0) end,
    status = "500 Internal Server Error", log = "seconds must not be negative" },

  { name = "file_wrapper", app = function(environ, start_response)
      start_response(200, {})
      local file = assert(io.tmpfile())
      file:write(("x"):rep(5))
      file:seek("set")
      closed = 0
      return environ["wsgi.file_wrapper"](file, 2)
    end, chunks = { "xx", "xx", "x" } },
  { name = "file_wrapper closes what it wraps", app = function(environ, start_response)
      start_response(200, {})
      closed = 0
      return environ["wsgi.file_wrapper"]({ read = giving("a"), close = function() closed = closed + 1 end })
    end, body = "a", after = closed_once },
  { name = "file_wrapper does not hide a failed read", outcome = "Broken", app = function(environ, start_response)
      start_response(200, {})
      local reads = 0
      return environ["wsgi.file_wrapper"]({ read = function()
        reads = reads + 1
        if reads == 1 then return "a" end
        return nil, "disk on fire"
      end })
    end, body = "a", log = "cannot read the wrapped file: disk on fire" },
  { name = "file_wrapper of a number", app = function(environ) environ["wsgi.file_wrapper"](5) end,
    log = "file must be a file handle or a path, got number" },

  { name = "HEAD with a known body keeps its length", method = "HEAD", app = starting(function() return "hello" end),
    head = text .. "Content-Length: 5||", chunks = {} },
  { name = "HEAD with a Content-Length and no body", method = "HEAD", app = function(_, start_response)
      start_response(200, { { "Content-Length", "12" } })
      return {}
    end, head = "Content-Type: text/plain; charset=utf-8|Content-Length: 12||", chunks = {} },
  { name = "HEAD with an iterator", method = "HEAD", app = starting(function() return giving("a", "b") end),
    head = text .. "|", chunks = {} },
  { name = "HEAD with an iterator keeps its Content-Length", method = "HEAD", app = function()
      return 200, { ["Content-Length"] = 7 }, giving("a", "b")
    end, head = "Content-Type: text/plain; charset=utf-8|Content-Length: 7||", chunks = {} },
  { name = "HEAD with write", method = "HEAD", app = function(_, start_response)
      start_response(200, { { "Content-Length", 2 } })("ab")
      return ""
    end, head = "Content-Type: text/plain; charset=utf-8|Content-Length: 2||", chunks = {} },
  { name = "HEAD that fails", method = "HEAD", app = function() error("no") end, status = "500 Internal Server Error",
    head = "Content-Type: text/plain; charset=utf-8|Content-Length: 22||", chunks = {}, log = "HEAD /path?a=1" },
  -- A body that the status does not allow is logged once for each Lua state.
  { name = "204 sends neither type nor length nor body", app = function() return 204, {}, "ignored" end,
    status = "204 No Content", head = "|", chunks = {}, log = "a response with status 204 has no body; the one given is dropped" },
  { name = "204 with a body, again", app = function() return 204, {}, "ignored" end, head = "|", chunks = {} },
  { name = "204 with a type keeps it", app = function() return 204, { ["Content-Type"] = "text/css" }, "" end,
    head = "Content-Type: text/css||", chunks = {} },
  { name = "204 with an iterator closes it", app = function() return 204, {}, closing({}, { __call = giving("a") })() end,
    head = "|", chunks = {}, after = closed_once },
  { name = "204 with write", app = function(_, start_response)
      local write = start_response(204, {})
      write("a")
      write("b")
      return "c"
    end, head = "|", chunks = {} },
  { name = "204 with a longer Content-Length", app = function() return 204, { ["Content-Length"] = 9 }, "" end, head = "|", chunks = {} },
  { name = "HEAD of a 204 with a body", method = "HEAD", app = function() return 204, {}, "ignored" end, head = "|", chunks = {} },
  { name = "205 has a length of 0 and no body", app = function() return 205, {}, "ignored" end,
    status = "205 Reset Content", head = "Content-Length: 0||", chunks = {} },
  { name = "205 with a Content-Length", app = function() return 205, { ["Content-Length"] = 5 }, giving("hello") end,
    head = "Content-Length: 0||", chunks = {} },
  { name = "204 with a Content-Length", app = function() return 204, { ["Content-Length"] = 0 }, "" end, head = "|" },
  { name = "304 keeps the Content-Length it was given", app = function() return 304, { ["Content-Length"] = 9 }, "" end,
    head = "Content-Length: 9||", chunks = {} },
  { name = "304 keeps its validators", app = function()
      return 304, { { "ETag", '"v1"' }, { "Last-Modified", "Tue, 24 Nov 2026 12:00:00 GMT" } }, "ignored"
    end, head = 'ETag: "v1"|Last-Modified: Tue, 24 Nov 2026 12:00:00 GMT||', chunks = {} },
  { name = "304 with an iterator", app = function() return 304, {}, giving("a") end, head = "|", chunks = {} },

  { name = "nil", app = starting(function() end), status = "500 Internal Server Error", log = "returned no body (nil)" },
  { name = "nothing at all", app = function() end, status = "500 Internal Server Error",
    log = "returned nothing and did not call start_response" },
  { name = "number", app = starting(function() return 5 end), status = "500 Internal Server Error", log = "got a number" },
  { name = "boolean", app = starting(function() return true end), status = "500 Internal Server Error", log = "got a boolean" },
  { name = "map", app = starting(function() return { body = "x" } end), status = "500 Internal Server Error",
    log = "a table without strings, but with the key body" },
  { name = "number in an array", app = starting(function() return { "a", 1 } end), status = "500 Internal Server Error",
    log = "body[2] is a number" },
  { name = "number from a function", app = starting(function() return giving("", 1) end), status = "500 Internal Server Error",
    log = "must return strings, got number" },
  { name = "number from a function after the head", app = starting(function() return giving("a", 1) end), outcome = "Broken",
    chunks = { "a" }, log = "must return strings, got number" },
  { name = "body without start_response", app = function() return { "x" } end, status = "500 Internal Server Error",
    log = "start_response was not called before the body" },
  { name = "string without start_response", app = function() return "x" end, status = "500 Internal Server Error",
    log = "start_response was not called before the body" },
  { name = "start_response from within the iterator", app = function(_, start_response)
      return coroutine.wrap(function()
        start_response(202, {})
        coroutine.yield("late")
      end)
    end, status = "202 Accepted", body = "late" },
}

if _VERSION >= "Lua 5.4" then
  cases[#cases + 1] = { name = "the closing value of a generic for", app = starting(function()
    closed = 0
    return giving("a"), nil, nil, setmetatable({}, { __close = function() closed = closed + 1 end })
  end), body = "a", after = closed_once }
end

return cases
