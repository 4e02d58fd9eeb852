-- The contents of environ. A failed assertion is logged, which fails its case.

local function case(name, check, more)
  local fields = {
    name = name,
    app = function(environ, start_response)
      check(environ)
      start_response(200, {})
      return "ok"
    end,
    body = "ok",
  }
  for key, value in pairs(more or {}) do
    fields[key] = value
  end
  return fields
end

local function equal(a, b)
  if a ~= b then
    error(("expected %s, got %s"):format(tostring(b), tostring(a)), 2)
  end
end

local seen

return {
  case("variables are passed on unchanged", function(environ)
    equal(environ.REQUEST_METHOD, "GET")
    equal(environ.PATH_INFO, "/path")
    equal(environ.CONTENT_TYPE, "")
    equal(environ.HTTP_ABSENT, nil)
    equal(environ.EXTRA, "\0\255")
    equal(environ["odd name"], "1")
  end, { variables = { EXTRA = "\0\255", ["odd name"] = "1" } }),
  case("a body that the proxy withholds", function(environ)
    equal(environ.CONTENT_LENGTH, "0")
    equal(environ["nibiru.promised_length"], "4000")
    equal(environ["wsgi.input"]:read("a"), "")
    equal(environ["wsgi.input"]:read(1), nil)
  end, { variables = { CONTENT_LENGTH = "0", ["nibiru.promised_length"] = "4000" } }),
  case("a plain table", function(environ)
    equal(type(environ), "table")
    equal(getmetatable(environ), nil)
    for key in pairs(environ) do
      equal(type(key), "string")
    end
  end),
  case("new for every request", function(environ)
    assert(seen ~= environ)
    equal(environ.mine, nil)
    environ.mine = true
    seen = environ
  end),
  case("the keys of PEP 3333", function(environ)
    equal(environ["wsgi.version"][1], 1)
    equal(environ["wsgi.version"][2], 0)
    equal(environ["wsgi.url_scheme"], "http")
    equal(environ["wsgi.multithread"], false)
    equal(environ["wsgi.multiprocess"], true)
    equal(environ["wsgi.run_once"], false)
    equal(type(environ["wsgi.file_wrapper"]), "function")
    equal(environ["nibiru.request_id"], "test-id")
  end),
  case("variables do not replace the server's keys", function(environ)
    equal(environ["wsgi.multiprocess"], true)
    equal(type(environ["wsgi.input"]), "table")
    equal(environ["nibiru.request_id"], "test-id")
  end, { variables = { ["wsgi.multiprocess"] = "x", ["wsgi.input"] = "x", ["nibiru.request_id"] = "x" } }),
  case("https by HTTPS", function(environ) equal(environ["wsgi.url_scheme"], "https") end, { variables = { HTTPS = "on" } }),
  case("https by REQUEST_SCHEME", function(environ) equal(environ["wsgi.url_scheme"], "https") end, { variables = { REQUEST_SCHEME = "https" } }),
  case("http by HTTPS=off", function(environ) equal(environ["wsgi.url_scheme"], "http") end, { variables = { HTTPS = "off", REQUEST_SCHEME = "https" } }),
  case("http by an empty HTTPS", function(environ) equal(environ["wsgi.url_scheme"], "http") end, { variables = { HTTPS = "" } }),
  case("the length of a body that was sent without one", function(environ)
    equal(environ.CONTENT_LENGTH, "5")
    equal(environ["wsgi.input"]:read(), "hello")
  end, { method = "POST", input = "hello" }),
  case("the length of a body that was sent with -1", function(environ) equal(environ.CONTENT_LENGTH, "5") end,
    { method = "POST", input = "hello", variables = { CONTENT_LENGTH = "-1" } }),
  case("-1 and no body", function(environ) equal(environ.CONTENT_LENGTH, "0") end, { variables = { CONTENT_LENGTH = "-1" } }),
  case("an empty length and no body stay as they came", function(environ) equal(environ.CONTENT_LENGTH, "") end),
  case("a length stays as it came", function(environ) equal(environ.CONTENT_LENGTH, "005") end,
    { method = "POST", input = "hello", variables = { CONTENT_LENGTH = "005" } }),
  case("no second length and no transfer coding", function(environ)
    equal(environ.CONTENT_LENGTH, "5")
    equal(environ.HTTP_CONTENT_LENGTH, nil)
    equal(environ.HTTP_TRANSFER_ENCODING, nil)
  end, { method = "POST", input = "hello",
    variables = { CONTENT_LENGTH = "5", HTTP_CONTENT_LENGTH = "50", HTTP_TRANSFER_ENCODING = "chunked" } }),
  case("require gives the server", function()
    local nibiru = require("nibiru")
    equal(nibiru.generation, 7)
    assert(nibiru.version:find("^%d+%.%d+%.%d+"))
    assert(not pcall(require, "nibiru.server"))
  end),
  case("the root comes first in package.path", function()
    assert(package.path:find("/tests/lua/?.lua", 1, true) < package.path:find("/usr/local", 1, true))
  end),
}
