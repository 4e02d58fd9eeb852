-- The roles of FastCGI: the environ of each, and the responses that an authorizer may give.

local DENIED = "Content-Type: text/plain; charset=utf-8|Content-Length: 7||"

local function authorizer(name, case)
  case.name, case.role = "authorizer: " .. name, "authorizer"
  return case
end

local function equal(a, b)
  if a ~= b then
    error(("expected %q, got %q"):format(tostring(b), tostring(a)), 2)
  end
end

local function filter(name, case)
  case.name = "filter: " .. name
  case.method, case.body = "POST", "ok"
  local check = case.check
  case.app = function(environ)
    check(environ["nibiru.filter_data"], environ["wsgi.input"], environ)
    return 200, {}, "ok"
  end
  return case
end

local closed, kept = 0, nil

return {
  {
    name = "a responder knows its role, and has no second input",
    body = "responder nil",
    app = function(environ)
      return 200, {}, environ["nibiru.role"] .. " " .. tostring(environ["nibiru.filter_data"])
    end,
  },
  {
    name = "no variable can replace the role",
    variables = { ["nibiru.role"] = "authorizer", ["nibiru.filter_data"] = "x" },
    body = "responder",
    app = function(environ)
      return 200, {}, environ["nibiru.role"]
    end,
  },
  {
    -- nginx's auth_request reads such a header from a responder.
    name = "Variable- is an ordinary header of a responder",
    status = "200 OK",
    head = "Variable-USER: alice|Content-Type: text/plain; charset=utf-8|Content-Length: 0||",
    app = function()
      return 200, { ["Variable-USER"] = "alice" }, ""
    end,
  },

  authorizer("200 sends its variables and nothing else", {
    status = "200 OK",
    head = "Variable-REMOTE_USER: alice|variable-group: a, b|VARIABLE-X: ||",
    body = "",
    app = function(environ, start_response)
      equal(environ["nibiru.role"], "authorizer")
      equal(environ["wsgi.input"]:read(), "")
      start_response("200 OK", {
        { "Content-Type", "text/html" },
        { "Variable-REMOTE_USER", "alice" },
        { "Set-Cookie", "a=1" },
        { "Content-Length", "5" },
        { "variable-group", "a, b" },
        { "X-Variable-No", "1" },
        { "VARIABLE-X", "" },
      })
      return "hello"
    end,
  }),
  authorizer("the short form without any variable", {
    status = "200 OK",
    head = "|",
    body = "",
    app = function()
      return 200, {}, ""
    end,
  }),
  authorizer("200 to HEAD says nothing of a length", {
    method = "HEAD",
    status = "200 OK",
    head = "Variable-A: 1||",
    app = function()
      return 200, { ["Variable-A"] = 1 }, "body"
    end,
  }),
  authorizer("a denial is a response, without what is meant for the front end", {
    status = "401 Unauthorized",
    head = 'WWW-Authenticate: Basic realm="a"|' .. DENIED,
    body = "log in\n",
    app = function()
      return 401, { { "Variable-REMOTE_USER", "alice" }, { "WWW-Authenticate", 'Basic realm="a"' } }, "log in\n"
    end,
  }),
  authorizer("201 is no consent", {
    status = "201 Created",
    head = DENIED,
    body = "log in\n",
    app = function()
      return 201, { ["Variable-A"] = "1" }, "log in\n"
    end,
  }),
  authorizer("an error in the body after 200 denies", {
    status = "500 Internal Server Error",
    body = "Internal Server Error\n",
    log = "second chunk",
    app = function()
      local chunks = 0
      return 200, { ["Variable-A"] = "1" }, function()
        chunks = chunks + 1
        return chunks == 1 and "one" or error("second chunk")
      end
    end,
  }),
  authorizer("an error after write denies", {
    status = "500 Internal Server Error",
    log = "after write",
    app = function(_, start_response)
      start_response(200, {})("granted")
      error("after write")
    end,
  }),
  authorizer("200 may be taken back until the end", {
    status = "403 Forbidden",
    head = DENIED,
    body = "log in\n",
    app = function(_, start_response)
      local write = start_response(200, { ["Variable-A"] = "1" })
      write("ignored")
      start_response(403, {}, "exc_info")
      return "log in\n"
    end,
  }),
  authorizer("a streamed body is run to its end, dropped and closed", {
    status = "200 OK",
    head = "|",
    body = "",
    app = function()
      local left = 3
      local body = { close = function() closed = closed + 1 end }
      return 200, {}, setmetatable(body, {
        __call = function()
          left = left - 1
          return left >= 0 and "chunk" or nil
        end,
      })
    end,
    after = function()
      equal(closed, 1)
    end,
  }),
  authorizer("an error denies", {
    status = "500 Internal Server Error",
    log = "no database",
    app = function()
      error("no database")
    end,
  }),
  authorizer("a bad header denies", {
    status = "500 Internal Server Error",
    log = "header Variable-A contains LF",
    app = function()
      return 200, { ["Variable-A"] = "1\nVariable-B: 2" }, ""
    end,
  }),

  filter("both inputs are there, and apart", {
    input = "body\nof the request",
    data = "data\nto filter",
    check = function(data, input, environ)
      equal(environ["nibiru.role"], "filter")
      equal(data:read("l"), "data")
      equal(input:read("l"), "body")
      equal(data:read("L"), "to filter")
      equal(data:read("L"), nil)
      equal(input:read(), "of the request")
      equal(data:seek("set", 5), 5)
      equal(data:read(2), "to")
      equal(tostring(data), "nibiru.filter_data (14 bytes)")
      input:close()
      equal(data:read(), " filter")
    end,
  }),
  filter("data longer than a window", {
    data = ("x"):rep(70000) .. "\n" .. ("y"):rep(200000),
    check = function(data, input)
      equal(#data:read("l"), 70000)
      equal(#data:readline(), 200000)
      equal(input:read(), "")
      equal(data:seek("end"), 270001)
    end,
  }),
  filter("data that there is none of", {
    data = "",
    check = function(data)
      equal(data:read(), "")
      equal(data:read(1), nil)
      kept = data
    end,
  }),
  filter("the data of another request are closed", {
    data = "secret",
    check = function()
      local ok, problem = pcall(kept.read, kept)
      equal(ok, false)
      equal(tostring(problem):find("attempt to use a closed file", 1, true) ~= nil, true)
    end,
  }),
}
