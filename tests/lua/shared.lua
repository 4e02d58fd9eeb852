-- Writes into everything that a request passes to its application, and looks in the next request for the same objects.
-- Answers with their paths. The walk uses plain Lua: keys, values, and metatables of `getmetatable`.

local getmetatable, next, pcall, rawset, type = getmetatable, next, pcall, rawset, type
local setfenv = setfenv

--- Calls `found` once for each table and function that can be reached from a value, with its path.
local function walk(value, path, seen, found)
  local kind = type(value)
  if (kind ~= "table" and kind ~= "function" and kind ~= "userdata") or seen[value] then
    return
  end
  seen[value] = path
  found(value, path, kind)
  if kind == "table" then
    for key, field in next, value do
      walk(key, path .. ".key", seen, found)
      walk(field, path .. "." .. tostring(key), seen, found)
    end
  end
  if kind ~= "function" then
    walk(getmetatable(value), path .. ".metatable", seen, found)
  end
end

-- Values that belong to the application anyway: its globals, the modules, and the metatables of Lua's own types.
local own = {}
walk({ _G, package.loaded, getmetatable(""), getmetatable(io.stdout) }, "own", own, function() end)

local function no_global(_, name)
  error("the global " .. name .. " is looked up")
end

-- In Lua 5.1 and LuaJIT a function's globals can be taken from it.
local function spoil(fn)
  if setfenv then
    pcall(setfenv, fn, setmetatable({}, { __index = no_global }))
  end
end

local kept = {}

local function application(environ, start_response)
  local input, errors = environ["wsgi.input"], environ["wsgi.errors"]
  local body = environ["wsgi.file_wrapper"]("environ.lua", 10)
  local things = { environ, start_response, start_response(200, {}), input:lines(), body }
  -- Everything works, whatever the last request has written.
  assert(input:read() == "posted" and errors:write("line\n") == errors and #body() == 10)
  body:close()
  assert(environ["wsgi.version"][1] == 1 and environ["wsgi.version"][2] == 0)
  local seen, shared = {}, {}
  for thing in next, own do
    seen[thing] = "own"
  end
  local reached = {}
  walk(things, "request", seen, function(value, path, kind)
    if kind ~= "function" then
      reached[value] = path
      if kept[value] then
        shared[#shared + 1] = path
      end
    end
    spoil(kind == "function" and value or nil)
  end)
  for value, path in next, reached do
    kept[value] = path
    if type(value) == "table" then
      for key, field in next, value do
        if type(field) == "function" then
          rawset(value, key, false)
        end
      end
      rawset(value, "written", true)
    end
  end
  return table.concat(shared, " ")
end

return application
