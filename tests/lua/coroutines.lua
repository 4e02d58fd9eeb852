-- The behaviour of coroutines, as lines of text that must be the same for Lua's own `coroutine` and for nibiru's. See
-- `coroutines_behave_as_luas_own` in src/lua/tests/interrupts.rs.
local create, resume, wrap, yield, status = coroutine.create, coroutine.resume, coroutine.wrap, coroutine.yield, coroutine.status
local unpack = table.unpack or unpack

local lines = {}

-- Adds a line, with addresses replaced.
local function say(what, ...)
  local words = {}
  for position = 1, select("#", ...) do
    words[position] = tostring((select(position, ...))):gsub("0x%x+", "ADDRESS"):gsub("\n", "|")
  end
  lines[#lines + 1] = what .. ": " .. table.concat(words, ", ")
end

local function count(...)
  return select("#", ...), (...)
end

-- Values in and out.
local co = create(function(...)
  say("first", ...)
  say("second", yield(1, nil, 3))
  say("third", yield())
  return "end", nil
end)
say("resume", resume(co, "a", nil, "c"))
say("resume", resume(co, nil))
say("status", status(co))
say("resume", resume(co))
say("status", status(co))
say("dead", resume(co))
say("dead again", resume(co, 1, 2, 3))

local next_value = wrap(function(...)
  say("wrap first", ...)
  say("wrap second", yield(nil, "x"))
  return
end)
say("wrap", next_value(1, nil))
say("wrap", next_value(2, nil))
say("wrap dead", pcall(next_value))
say("wrap dead again", pcall(next_value, 1, 2))

-- Many values.
local many = {}
for n = 1, 200 do
  many[n] = n
end
say("many in", resume(create(count), unpack(many)))
say("many out", count(resume(create(function()
  return unpack(many)
end))))
say("many wrapped", count(wrap(function(...)
  yield(...)
end)(unpack(many))))

-- Errors of every kind, with the place that is put before them.
local function fail(value)
  return function()
    error(value)
  end
end
for _, value in ipairs({ "text", 42, true, { 1 } }) do
  say("resume fails", select("#", resume(create(fail(value)))), type(select(2, resume(create(fail(value))))))
  say("wrap fails", type(select(2, pcall(wrap(fail(value))))))
end
say("resume text", resume(create(fail("text"))))
say("wrap text", pcall(function()
  local f = wrap(fail("text"))
  f()
end))
say("wrap number", pcall(function()
  local f = wrap(function()
    error(42, 0)
  end)
  f()
end))
say("wrap nil", pcall(wrap(fail(nil))))
say("nested", pcall(function()
  wrap(function()
    wrap(fail("deep"))()
  end)()
end))

-- Misuse.
for _, value in ipairs({ 1, "x", print, {} }) do
  say("resume " .. type(value), pcall(resume, value))
end
say("resume nothing", pcall(resume))
say("wrap nothing", pcall(wrap))
say("wrap number", pcall(wrap, 1))
say("by name", pcall(function()
  coroutine.resume(1)
end))
say("create C", pcall(create, print))
say("wrap C", pcall(wrap, tostring))
local own
own = create(function()
  say("itself", resume(own))
  local inner = create(function()
    say("its parent", resume(own))
  end)
  say("inner", resume(inner))
end)
say("own", resume(own))

-- A yield across a C function, and through pcall.
say("across", resume(create(function()
  table.sort({ 2, 1 }, function()
    yield()
  end)
end)))
local through = create(function()
  local ok, value = pcall(function()
    return yield("inside")
  end)
  say("through pcall", ok, value)
end)
say("through", resume(through))
say("through", resume(through, "back"))

-- The depth of nesting. LuaJIT has no bound, and exhausts the process's stack.
if not jit then
  local depth = 0
  local function dive()
    depth = depth + 1
    local f = wrap(dive)
    return f()
  end
  local ok, problem = pcall(dive)
  say("depth", ok, depth > 10 and depth, #tostring(problem) > 0)
  depth = 0
  local function sink()
    depth = depth + 1
    return resume(create(sink))
  end
  sink()
  say("depth of resume", depth)
end

-- Tracebacks.
say("traceback", debug.traceback(create(fail("x"))))
say("names", (debug.traceback("here"):gsub("%d+", "N")))
local traced
wrap(function()
  traced = debug.traceback("inside")
end)()
say("inside", traced)

-- To-be-closed variables, from Lua 5.4 on.
local closing = (loadstring or load)([[
  local say, create, resume, wrap, yield = ...
  local function closer(name, problem)
    return setmetatable({}, { __close = function(_, err)
      say("closed " .. name, err)
      if problem then error(problem, 0) end
    end })
  end
  say("close wrap", pcall(wrap(function() local x <close> = closer("one") error("first", 0) end)))
  say("close fails", pcall(wrap(function() local x <close> = closer("two", "second") error("first", 0) end)))
  say("close returns", pcall(wrap(function() local x <close> = closer("three") return 3 end)))
  local co = create(function() local x <close> = closer("four") error("first", 0) end)
  say("close resume", resume(co))
  say("close", coroutine.close(co))
  co = create(function() local x <close> = closer("five") yield() end)
  resume(co)
  say("close suspended", coroutine.close(co))
]])
if closing then
  closing(say, create, resume, wrap, yield)
end

return table.concat(lines, "\n")
