-- Runs too long in the way that the path names: /stuck/HOW?dir=PATH. Announces "started" with its pid first.
local gate = require("gate")

--- Keeps `f` from LuaJIT's compiler: compiled code does not see interrupts.
local function interpreted(f)
  if jit then
    jit.off(f, true)
  end
  return f
end

local spin = interpreted(function()
  while true do
  end
end)

local function exists(path)
  local file = io.open(path)
  if file then
    file:close()
  end
  return file ~= nil
end

local ways = {
  loop = spin,
  compiled = function()
    local count = 0
    while true do
      count = count + 1
    end
  end,
  resume = function()
    assert(coroutine.resume(coroutine.create(spin)))
  end,
  wrap = function()
    coroutine.wrap(spin)()
  end,
  nested = function()
    coroutine.wrap(function()
      assert(coroutine.resume(coroutine.create(function()
        coroutine.wrap(spin)()
      end)))
    end)()
  end,
  c = function()
    os.execute("exec sleep 20")
  end,
  -- Catches the error, and announces it.
  caught = function(environ)
    local directory = gate.directory(environ)
    local ok, problem = pcall(spin)
    gate.announce(directory, "caught", tostring(ok) .. " " .. tostring(problem))
    error("second thoughts")
  end,
  -- Runs Lua code until the file "go" exists.
  busy = interpreted(function(environ)
    local go = gate.directory(environ) .. "/go"
    while not exists(go) do
    end
    return 200, {}, { "busy\n" }
  end),
  -- Waits in C code until the file "go" exists.
  busy_in_c = function(environ)
    os.execute("until [ -e '" .. gate.directory(environ) .. "/go' ]; do sleep 0.05; done")
    return 200, {}, { "busy\n" }
  end,
  -- A body that loops forever after its first chunk.
  body = function(environ)
    local directory, first = gate.directory(environ), true
    local body = {
      close = function()
        gate.announce(directory, "closed")
      end,
    }
    setmetatable(body, {
      __call = function()
        if first then
          first = false
          return "only the beginning\n"
        end
        spin()
      end,
    })
    return 200, { { "X-Accel-Buffering", "no" } }, body
  end,
  after_in_c = function(environ)
    environ["nibiru.after_response"](function()
      os.execute("exec sleep 20")
    end)
    return 200, {}, { "done\n" }
  end,
}

return function(environ)
  gate.announce(gate.directory(environ), "started", gate.pid())
  return ways[environ.PATH_INFO:match("^/stuck/([%w_]+)")](environ)
end
