-- Fails in the way that the path names, /bomb/HOW. Some ways end the worker.
local ways = {}

function ways.exit()
  os.exit(1)
end

function ways.exit_closing_the_state()
  os.exit(0, true)
end

-- The collector raises the error at any allocation: here, or in a later request.
function ways.error_in_gc()
  local finaliser = {
    __gc = function()
      error("deliberate failure of a finaliser")
    end,
  }
  if newproxy then
    getmetatable(newproxy(true)).__gc = finaliser.__gc
  else
    setmetatable({}, finaliser)
  end
  collectgarbage()
  collectgarbage()
end

function ways.error_in_error_handler()
  local again
  function again()
    error(again)
  end
  assert(xpcall(error, again, "deliberate failure"))
end

function ways.error_that_cannot_be_shown()
  error(setmetatable({}, {
    __tostring = function()
      error("deliberate failure of __tostring")
    end,
  }))
end

function ways.error_that_shows_itself_as_a_table()
  error(setmetatable({}, {
    __tostring = function()
      return {}
    end,
  }))
end

function ways.error_nil()
  error(nil)
end

function ways.error_of_another_coroutine()
  coroutine.wrap(function()
    error({ "deliberate failure" })
  end)()
end

function ways.stack_overflow()
  local function deeper(n)
    return 1 + deeper(n + 1)
  end
  return deeper(1)
end

function ways.stack_overflow_in_error_handler()
  local function deeper(n)
    return 1 + deeper(n + 1)
  end
  assert(xpcall(deeper, deeper, 1))
end

function ways.c_stack_overflow()
  local function deeper(text)
    return (text:gsub(".", deeper))
  end
  return deeper("x")
end

function ways.coroutines_in_coroutines()
  local function deeper()
    return coroutine.wrap(deeper)()
  end
  return deeper()
end

function ways.deep_syntax()
  return assert((loadstring or load)("return " .. ("("):rep(100000) .. "1" .. (")"):rep(100000)))
end

function ways.deep_pattern()
  return (("x"):rep(300000):find((".-"):rep(300000) .. "y"))
end

function ways.deep_index()
  local top = {}
  for _ = 1, 100000 do
    top = setmetatable({}, { __index = top })
  end
  return top.missing
end

function ways.a_string_too_long()
  return ("x"):rep(2 ^ 40)
end

function ways.too_many_results()
  return (table.unpack or unpack)({}, 1, 1e7)
end

--- Allocates up to 512 MiB, which is bounded in case the server has no limit.
function ways.memory()
  local kept = {}
  for i = 1, 512 do
    kept[i] = ("x"):rep(2 ^ 20 - 16) .. i
  end
end

--- Exponential in the length of the subject: it runs in C longer than any test.
function ways.stuck_in_c()
  local text = ("a"):rep(40)
  return text:find(("a*"):rep(40) .. "b")
end

function ways.loop()
  while true do
  end
end

return function(environ)
  ways[environ.PATH_INFO:match("^/bomb/([%w_]+)")]()
  return 200, { ["Content-Type"] = "text/plain" }, "survived\n"
end
