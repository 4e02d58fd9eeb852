-- The application for nibiru. Lua 5.4.

local nibiru = require("nibiru")

local JSON = '{"id":500,"name":"item 500","price":12.5,"tags":["a","b","c"],"in_stock":true}\n'
local DOWN = ("x"):rep(65536)
local BLOCK = 8192

local function text(body)
  return 200, { ["Content-Type"] = "text/plain", ["Content-Length"] = tostring(#body) }, body
end

local database

local routes = {}

routes["/hello"] = function()
  return text("Hello, World!\n")
end

routes["/json"] = function()
  local headers = { ["Content-Type"] = "application/json", ["Content-Length"] = tostring(#JSON) }
  for i = 1, 20 do
    headers["X-Header-" .. i] = "value " .. i
  end
  return 200, headers, JSON
end

routes["/up"] = function(environ)
  local taken = 0
  for block in function() return environ["wsgi.input"]:read(BLOCK) end do
    taken = taken + #block
  end
  return text(taken .. "\n")
end

routes["/down"] = function()
  return 200, { ["Content-Type"] = "application/octet-stream", ["Content-Length"] = tostring(#DOWN) }, DOWN
end

routes["/sqlite"] = function(environ)
  -- A connection of this worker, opened at its first request.
  if not database then
    database = assert(require("luasql.sqlite3").sqlite3():connect(os.getenv("BENCH_DATABASE")))
  end
  local cursor = assert(database:execute(("SELECT name FROM item WHERE id = %d"):format(environ.QUERY_STRING:match("%d+"))))
  local name = cursor:fetch()
  cursor:close()
  return text(name .. "\n")
end

routes["/slow"] = function(environ)
  if environ.QUERY_STRING == "wait" then
    nibiru.sleep(0.02)
  end
  return text("Hello, World!\n")
end

local function application(environ)
  return routes[environ.PATH_INFO](environ)
end

return { application = application }
