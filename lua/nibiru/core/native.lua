--- Notes that the application loads code that is not Lua: a C module, or LuaJIT's `ffi` once it declares a symbol. Such
--- code can change what plain Lua cannot, such as the working directory.
---
--- The functions below replace Lua's own and call them. Runs once per state, before the application.

local host = ...

local loaded_native_code = host.loaded_native_code
local ipairs, type = ipairs, type

local searchers = package.searchers or package.loaders
local loadlib = package.loadlib
local ffi = package.loaded.ffi

-- The last two of `require`'s four searchers look for C modules.
for _, position in ipairs({ 3, 4 }) do
  local searcher = searchers[position]
  searchers[position] = function(name)
    local loader, where = searcher(name)
    if type(loader) == "function" then
      loaded_native_code()
    end
    return loader, where
  end
end

---@diagnostic disable-next-line: duplicate-set-field
function package.loadlib(path, name)
  local loaded, problem, step = loadlib(path, name)
  if loaded then
    loaded_native_code()
  end
  return loaded, problem, step
end

if ffi then
  for _, name in ipairs({ "cdef", "load" }) do
    local original = ffi[name]
    ffi[name] = function(...)
      loaded_native_code()
      return original(...)
    end
  end
end
