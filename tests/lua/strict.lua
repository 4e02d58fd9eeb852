-- One case for each part of the interface, as harness.lua describes cases. The application has made the globals strict
-- or replaced Lua's functions before the cases run, so they keep the functions that they need in locals.

local kept = require("kept")
local nibiru, text = require("nibiru"), require("nibiru.text")
local assert, error, next, pcall, setmetatable, tostring =
  kept.assert, kept.error, kept.next, kept.pcall, kept.setmetatable, kept.tostring
local create, resume, wrap, yield = kept.coroutine.create, kept.coroutine.resume, kept.coroutine.wrap, kept.coroutine.yield
local open, find = kept.io.open, kept.string.find

local here = "tests/lua/hello.lua"

local function plain(body)
  return function(_, start_response)
    start_response("200 OK", { { "Content-Type", "text/plain" } })
    return body()
  end
end

local closed = 0

return {
  { name = "an array", app = plain(function() return { "a", "b" } end), status = "200 OK", body = "ab" },
  { name = "a string", app = plain(function() return "ab" end), body = "ab" },
  { name = "the short form", app = function() return 201, { ["Set-Cookie"] = { "a=1", "b=2" }, ["X-Number"] = 1.5 }, "ab" end, status = "201 Created", body = "ab" },
  { name = "a function", app = plain(function()
    local count = 0
    return function()
      count = count + 1
      return count <= 2 and tostring(count) or nil
    end
  end), chunks = { "1", "2" } },
  { name = "a table with __call", app = plain(function()
    local count = 0
    return setmetatable({ close = function() closed = closed + 1 end }, { __call = function()
      count = count + 1
      return count <= 2 and "x" or nil
    end })
  end), body = "xx", after = function() assert(closed == 1) end },
  { name = "the values of a generic for", app = plain(function() return next, { "a", "b" } end), body = "ab" },
  { name = "a closing value", app = plain(function()
    local done = false
    return function()
      done = not done
      return done and "x" or nil
    end, nil, nil, setmetatable({}, { __close = function() nibiru.log.info("closed") end })
  end), body = "x", log = "closed" },
  { name = "an application with __call", app = function(...)
    return setmetatable({}, { __call = function() return 200, {}, "called" end })(...)
  end, body = "called" },
  { name = "write", app = function(_, start_response)
    local write = start_response(200, {})
    write("one")
    return { "two" }
  end, chunks = { "one", "two" } },
  { name = "a coroutine as a body", app = plain(function()
    return wrap(function()
      yield("in")
      yield("side")
    end)
  end), body = "inside" },
  { name = "coroutines", app = function()
    local ok, problem = resume(create(function() error("inside", 0) end))
    local wrapped, other = pcall(wrap(function() error("wrapped", 0) end))
    return 200, {}, tostring(ok) .. problem .. tostring(wrapped) .. other
  end, body = "falseinsidefalsewrapped" },
  { name = "a file", app = function(environ)
    return 200, {}, environ["wsgi.file_wrapper"](assert(open(here, "rb")), 16)
  end, outcome = "Complete" },
  { name = "a file that is not there", app = function(environ)
    local body, problem = environ["wsgi.file_wrapper"]("nosuch")
    return 200, {}, tostring(body) .. tostring(find(problem, "No such file", 1, true) ~= nil)
  end, body = "niltrue" },
  { name = "input", method = "POST", input = "one\ntwo\nthree", app = function(environ)
    local input = environ["wsgi.input"]
    local first = input:read("l")
    local lines = input:readlines()
    input:seek("set", 0)
    local all = input:read()
    return 200, {}, first .. #lines .. #all .. tostring(input)
  end, body = "one213wsgi.input (13 bytes)" },
  { name = "a filter", data = "data", app = function(environ)
    return 200, {}, environ["nibiru.filter_data"]:read()
  end, body = "data" },
  { name = "an authorizer", role = "authorizer", app = function()
    return 200, { ["Variable-USER"] = "me", ["X-Other"] = "x" }, "dropped"
  end, head = "Variable-USER: me||", body = "" },
  { name = "errors and log", app = function(environ)
    environ["wsgi.errors"]:write("a", 1, "\n"):flush()
    environ["wsgi.errors"]:writelines({ "b\n" })
    nibiru.log.warn("message", { key = "two words", other = "a\nb" })
    return 200, {}, ""
  end, log = { "a1", "b", [[message {"key":"two words","other":"a\nb"}]] } },
  { name = "text", app = function()
    local valid, position = text.valid_utf8("a\255")
    return 200, {}, tostring(valid) .. position .. text.scrub("a\255")
  end, body = "false2a\239\191\189" },
  { name = "sleep", app = function()
    return 200, {}, tostring(nibiru.sleep(0))
  end, body = "true" },
  { name = "after_response", app = function(environ)
    environ["nibiru.after_response"](function() nibiru.log.info("later") end)
    environ["nibiru.after_response"](function() error("later, too", 0) end)
    return 200, {}, ""
  end, log = { "later", "error in after_response: later, too" } },
  { name = "an error", app = function() error("no luck") end, status = "500 Internal Server Error", log = "no luck" },
  { name = "an error that is a table", app = function() error({ code = 5 }) end, status = "500 Internal Server Error", log = "a table: { code = 5 }" },
  { name = "an error with __tostring", app = function()
    error(setmetatable({}, { __tostring = function() return "described" end }))
  end, status = "500 Internal Server Error", log = "described" },
  { name = "an error in a stream", app = function(_, start_response)
    start_response(200, {})
    local count = 0
    return function()
      count = count + 1
      return count == 1 and "x" or error("later", 0)
    end
  end, outcome = "Broken", log = "later" },
  { name = "exc_info", app = function(_, start_response)
    start_response(200, {})
    start_response(500, {}, "problem")
    return "handled"
  end, status = "500 Internal Server Error", body = "handled" },
  { name = "an error in close", app = plain(function()
    return { "x", close = function() error("not closed", 0) end }
  end), body = "x", log = "error in close: not closed" },
  { name = "a bad header", app = function() return 200, { ["X-Bad"] = "a\nb" }, "" end, status = "500 Internal Server Error", log = "header X-Bad contains LF at byte 2" },
  { name = "a bad body", app = function() return 200, {}, { status = 200 } end, status = "500 Internal Server Error", log = "the key status" },
  { name = "no body", app = function() end, status = "500 Internal Server Error", log = "returned nothing" },
  { name = "a header that is left out", app = function() return 200, { Connection = "close" }, "" end, log = "is left out" },
  { name = "a body that has no place", app = function() return 204, {}, "x" end, status = "204 No Content", log = "has no body" },
  { name = "HEAD", method = "HEAD", app = plain(function() return "ab" end), body = "" },
  { name = "a client that leaves", patience = 1, app = plain(function()
    return function() return "more" end
  end), outcome = "Aborted" },
  { name = "an error in a request whose environ is strict and empty", app = function(environ)
    for key in next, environ do
      environ[key] = nil
    end
    setmetatable(environ, { __index = function(_, key) error("no " .. key) end })
    error("lost", 0)
  end, status = "500 Internal Server Error", log = "GET /path?a=1 - (request test-id): lost" },
}
