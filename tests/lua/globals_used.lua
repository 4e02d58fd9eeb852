-- Walks from some functions of nibiru to all functions that they can reach. Returns the number of functions, and those
-- that use a global or, in Lua 5.1 and LuaJIT, have the application's globals as their environment.

local entries = ...

local seen, count, guilty = {}, 0, {}
local environment_of = getfenv

local walk

local function walk_function(value)
  local info = debug.getinfo(value, "S")
  if info.source:sub(1, 8) ~= "@nibiru/" then
    return
  end
  count = count + 1
  local place = info.source .. ":" .. info.linedefined
  if environment_of and environment_of(value) == _G then
    guilty[#guilty + 1] = place
  end
  local position = 1
  while true do
    local name, upvalue = debug.getupvalue(value, position)
    if not name then
      break
    elseif name == "_ENV" then
      guilty[#guilty + 1] = place
    else
      walk(upvalue)
    end
    position = position + 1
  end
end

function walk(value)
  local kind = type(value)
  if (kind ~= "function" and kind ~= "table") or seen[value] then
    return
  end
  seen[value] = true
  if kind == "function" then
    walk_function(value)
  else
    for key, field in next, value do
      walk(key)
      walk(field)
    end
    walk(debug.getmetatable(value))
  end
end

walk(entries)
walk(require("nibiru"))
walk(require("nibiru.text"))
walk(os.exit)
walk(require("utf8"))
return count, guilty
