-- Reads the request body while finalisers read it, too: the collector may run at any allocation, including that of the
-- result of a read.

local function with_finaliser(finaliser)
  if newproxy then
    getmetatable(newproxy(true)).__gc = finaliser
  else
    setmetatable({}, { __gc = finaliser })
  end
end

return function(environ)
  local input = environ["wsgi.input"]
  local calls, problem = 0, nil
  local function finaliser()
    calls = calls + 1
    local ok, what = pcall(function()
      input:seek("set", 0)
      assert(#input:read(5) == 5 and input:readline())
      environ["wsgi.errors"]:flush()
      require("nibiru").sleep(0)
    end)
    problem = problem or (not ok and tostring(what)) or nil
  end
  for _ = 1, 2000 do
    with_finaliser(finaliser)
    input:seek("set", 0)
    assert(input:read(20000))
    input:seek("set", 0)
    assert(input:readline())
  end
  return 200, {}, problem or (calls > 100 and "fine") or "finalisers have not run"
end
