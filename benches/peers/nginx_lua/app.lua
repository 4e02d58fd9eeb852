-- The application in nginx itself. LuaJIT. A module, so that nginx loads it once and keeps what it holds.

local M = {}

local JSON = '{"id":500,"name":"item 500","price":12.5,"tags":["a","b","c"],"in_stock":true}\n'
local DOWN = ("x"):rep(65536)

local function answer(kind, body)
  ngx.header["Content-Type"] = kind
  ngx.header["Content-Length"] = #body
  ngx.print(body)
end

local database

local routes = {}

routes["/hello"] = function()
  answer("text/plain", "Hello, World!\n")
end

routes["/json"] = function()
  for i = 1, 20 do
    ngx.header["X-Header-" .. i] = "value " .. i
  end
  answer("application/json", JSON)
end

routes["/up"] = function()
  ngx.req.read_body()
  answer("text/plain", #ngx.req.get_body_data() .. "\n")
end

routes["/down"] = function()
  answer("application/octet-stream", DOWN)
end

-- The query blocks the nginx worker: LuaSQL knows no event loop.
routes["/sqlite"] = function()
  if not database then
    database = assert(require("luasql.sqlite3").sqlite3():connect(os.getenv("BENCH_DATABASE")))
  end
  local cursor = assert(database:execute(("SELECT name FROM item WHERE id = %d"):format(ngx.var.args:match("%d+"))))
  local name = cursor:fetch()
  cursor:close()
  answer("text/plain", name .. "\n")
end

routes["/slow"] = function()
  if ngx.var.args == "wait" then
    ngx.sleep(0.02)
  end
  answer("text/plain", "Hello, World!\n")
end

function M.run()
  routes[ngx.var.uri]()
end

return M
