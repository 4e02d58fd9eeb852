-- Applications that change the globals during the load, for the cases in strict.lua. The hooks log, so that the test
-- can check that they have run.

local nibiru = require("nibiru")
local error, format, next, rawset, setmetatable, tostring, type = error, string.format, next, rawset, setmetatable, tostring, type
local debug_getmetatable, stdout = debug.getmetatable, io.stdout
local metatable_of_strings = debug_getmetatable("")
local log = nibiru.log.info

local function application()
  return 200, {}, ""
end

nibiru.on_worker_start(function(worker)
  log("start hook " .. tostring(worker))
end)

nibiru.on_worker_stop(function()
  log("stop hook")
end)

local M = {}

-- The globals that strict.lua needs when it is loaded later.
local kept = {}
for name, library in next, _G do
  kept[name] = library
  if type(library) == "table" and library ~= _G then
    kept[name] = {}
    for key, value in next, library do
      kept[name][key] = value
    end
  end
end
package.loaded.kept = kept

local function refuse(what)
  return function(_, name)
    error(format("%s undeclared global %s", what, tostring(name)), 2)
  end
end

local strict = { __index = refuse("read of"), __newindex = refuse("write to") }

local function replacement()
  error("this function is the application's", 0)
end

function M.strict()
  setmetatable(_G, strict)
  return application
end

function M.replaced()
  for _, name in next, { "string", "table", "math", "io", "os", "debug", "coroutine" } do
    local library = _G[name]
    for key, value in next, library do
      if type(value) == "function" and not (name == "os" and key == "exit") then
        rawset(library, key, replacement)
      end
    end
  end
  -- From Lua 5.3 on, `tostring` and "%s" ask for the first of these, and arithmetic for the others.
  for _, event in next, { "__index", "__tostring", "__concat", "__len", "__call", "__add", "__mod", "__unm" } do
    rawset(metatable_of_strings, event, replacement)
  end
  local methods = debug_getmetatable(stdout).__index
  for key in next, methods do
    methods[key] = replacement
  end
  for key, value in next, _G do
    -- The test itself loads strict.lua, which uses `require`.
    if type(value) == "function" and key ~= "require" then
      rawset(_G, key, replacement)
    end
  end
  return application
end

-- The test names one of the two applications, and the result of its function is served.
return setmetatable({}, {
  __index = function(_, name)
    return M[name]()
  end,
})
