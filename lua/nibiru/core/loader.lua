--- Finds the application: loads a module or a file and picks the callable out of its value.
---
--- Called once per state, before any request. Failures are values: a message, then a stack where the
--- application's own code raised.

local traceback = ...

local debug_getmetatable, gsub = debug.getmetatable, string.gsub
local loadfile, require = loadfile, require
local concat, min, sort = table.concat, math.min, table.sort
local error, next, pcall, rawget, tostring, type, xpcall = error, next, pcall, rawget, tostring, type, xpcall

local M = {}

--- Whether a value can be called: a function, or anything whose metatable says so.
---@param value any
---@return boolean
function M.callable(value)
  if type(value) == "function" then
    return true
  end
  local metatable = debug_getmetatable(value)
  return type(metatable) == "table" and rawget(metatable, "__call") ~= nil
end
local callable = M.callable

--- The description of a value that holds no callable, for the message.
---@param value any
---@return string
local function found(value)
  if value == true then
    return "it returned nothing; end it with `return { application = application }`"
  elseif type(value) ~= "table" then
    return "it returned a " .. type(value)
  end
  local names = {}
  for key, field in next, value do
    names[#names + 1] = traceback.text(key) .. " (" .. type(field) .. ")"
  end
  sort(names)
  return #names == 0 and "it returned an empty table" or "it returned a table with " .. concat(names, ", ", 1, min(#names, 20))
end

--- `value[key]`, for `pcall`.
local function index(value, key)
  return value[key]
end

--- A field of a module, also an inherited one; nil where the module is in strict mode and raises an error for a missing field.
---@param value table
---@param key string
---@return any
local function field_of(value, key)
  local ok, field = pcall(index, value, key)
  if ok then
    return field
  end
end

--- Picks the application out of a module.
---@param value any     the module's value
---@param name string?  asked for by the target
---@param what string   the module or file, for messages
---@return function|table? application
---@return string? problem
local function pick(value, name, what)
  local indexable = type(value) == "table"
  if name then
    local field = indexable and field_of(value, name) or nil
    if callable(field) then
      return field
    elseif field ~= nil then
      return nil, what .. ": " .. name .. " is a " .. type(field) .. ", and not callable"
    end
    return nil, what .. " has no " .. name .. ": " .. found(value)
  end
  local application = indexable and field_of(value, "application")
  if callable(application) then
    return application
  elseif callable(value) then
    return value
  end
  local app = indexable and field_of(value, "app")
  if callable(app) then
    return app
  end
  return nil, what .. " has no callable: tried `application`, the module itself and `app`; " .. found(value)
end

--- Loads the target.
---@param module string?  a module name for `require`
---@param file string?    or a path
---@param name string?
---@return function|table? application
---@return string? problem  message and, on further lines, the stack
function M.load(module, file, name)
  local chunk
  if file then
    local problem
    chunk, problem = loadfile(file)
    if not chunk then
      return nil, problem
    end
  end
  local value
  local ok, problem = xpcall(function()
    if chunk then
      value = chunk(file)
    else
      value = require(module)
    end
  end, traceback.describe)
  if not ok then
    -- For a module that is not there `require` names its caller, which is this file.
    return nil, (gsub(problem, "^nibiru/core/loader%.lua:%d+: ", ""))
  end
  if file and value == nil then
    value = true -- as `require` has it
  end
  local application
  ok, problem = xpcall(function()
    local why
    application, why = pick(value, name, file or "module " .. module)
    return why and error(why, 0)
  end, traceback.message)
  if not ok then
    return nil, problem
  end
  return application
end

return M
