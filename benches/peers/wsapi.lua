-- The application for WSAPI, which uWSGI and WSAPI's own FastCGI launcher run. Lua 5.1.

local socket = require("socket")

local JSON = '{"id":500,"name":"item 500","price":12.5,"tags":["a","b","c"],"in_stock":true}\n'
local DOWN = ("x"):rep(65536)
local BLOCK = 8192

-- Read while the application loads: libfcgi puts the parameters of each request in the place of the environment.
local DATABASE = os.getenv("BENCH_DATABASE")

-- A body of one piece. WSAPI's own connector stops at nil, uWSGI's at an error, such as that of a coroutine that has ended;
-- an iterator that goes on to give nil keeps uWSGI's worker in a loop.
local function answer(kind, body)
  local headers = { ["Content-Type"] = kind, ["Content-Length"] = tostring(#body) }
  local calls = 0
  return 200, headers, function()
    calls = calls + 1
    if calls > 2 then
      error()
    end
    return calls == 1 and body or nil
  end
end

-- A connection of this process, opened at its first request.
local database

local function query(parameters)
  if not database then
    database = assert(require("luasql.sqlite3").sqlite3():connect(DATABASE))
  end
  local cursor = assert(database:execute(("SELECT name FROM item WHERE id = %d"):format(parameters:match("%d+"))))
  local name = cursor:fetch()
  cursor:close()
  return name .. "\n"
end

local routes = {}

routes["/hello"] = function()
  return answer("text/plain", "Hello, World!\n")
end

routes["/json"] = function()
  local status, headers, body = answer("application/json", JSON)
  for i = 1, 20 do
    headers["X-Header-" .. i] = "value " .. i
  end
  return status, headers, body
end

routes["/up"] = function(environ)
  local left, taken = tonumber(environ.CONTENT_LENGTH), 0
  while taken < left do
    local block = environ.input:read(math.min(BLOCK, left - taken))
    if not block or block == "" then
      break
    end
    taken = taken + #block
  end
  return answer("text/plain", taken .. "\n")
end

routes["/down"] = function()
  return answer("application/octet-stream", DOWN)
end

routes["/sqlite"] = function(environ)
  return answer("text/plain", query(environ.QUERY_STRING))
end

routes["/slow"] = function(environ)
  if environ.QUERY_STRING == "wait" then
    socket.sleep(0.02)
  end
  return answer("text/plain", "Hello, World!\n")
end

return function(environ)
  return routes[environ.REQUEST_URI:match("^[^?]*")](environ)
end
