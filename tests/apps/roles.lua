-- Answers in each role of FastCGI. An authorizer decides by the path: see `tests/acceptance/roles.rs`.

local gate = require("gate")

local LATE = {
  __call = function()
    error("late error")
  end,
}

local decisions = {
  open = function(environ)
    return 200, {
      { "Content-Type", "text/html" },
      { "Variable-REMOTE_USER", "alice" },
      { "Variable-TEST_SEEN", ("%s,%s"):format(environ.FCGI_APACHE_ROLE or "-", environ.REMOTE_USER or "-") },
      { "Set-Cookie", "from=authorizer" },
      { "Content-Length", "6" },
    }, "ignore"
  end,
  login = function()
    return 401, { ["WWW-Authenticate"] = 'Basic realm="nibiru"', ["Variable-SECRET"] = "no" }, "Who are you?\n"
  end,
  forbidden = function()
    return 403, {}, "You may not.\n"
  end,
  error = function()
    error("the authorizer fails")
  end,
  late = function()
    return 200, { ["Variable-REMOTE_USER"] = "alice" }, setmetatable({}, LATE)
  end,
  killed = gate.die,
  -- The worker dies in `close`, when it has sent the head.
  unfinished = function()
    return 200, { ["Variable-REMOTE_USER"] = "alice" }, { "", close = gate.die }
  end,
  busy = function(environ)
    local directory = gate.directory(environ)
    gate.announce(directory, "busy")
    gate.wait(directory, "go")
    return 200, { ["Variable-REMOTE_USER"] = "alice" }, ""
  end,
}

local function authorize(environ)
  -- FastCGI sends an authorizer no body.
  assert(not environ.CONTENT_LENGTH and environ["wsgi.input"]:read() == "", "an authorizer has a body")
  local decide = decisions[(environ.REQUEST_URI or "/open"):match("^[^?]*/(%w+)")]
  if decide then
    return decide(environ)
  end
  return 404, {}, "no such decision\n"
end

local function filter(environ)
  local data, body = environ["nibiru.filter_data"], environ["wsgi.input"]
  local text = ("%s|%d|%s"):format(body:read(), data:seek("end"), tostring(environ.FCGI_DATA_LAST_MOD))
  data:seek("set", 0)
  return 200, { ["X-Of"] = text:sub(1, 100), ["X-Body"] = #text }, data:read():upper()
end

local function respond(environ)
  local lines = {}
  for name, value in pairs(environ) do
    if type(value) == "string" then
      lines[#lines + 1] = name .. "=" .. value .. "\n"
    end
  end
  table.sort(lines)
  return 200, {}, table.concat(lines)
end

local answers = { authorizer = authorize, filter = filter, responder = respond }

return function(environ)
  return answers[environ["nibiru.role"]](environ)
end
