-- Applications that call os.exit from every possible place.

local nibiru = require("nibiru")
local M = {}

function M.plain()
  os.exit(3)
end

function M.protected()
  while true do
    pcall(os.exit)
    xpcall(os.exit, print, true)
  end
end

function M.in_coroutine()
  local thread = coroutine.create(function()
    os.exit(false)
  end)
  while true do
    coroutine.resume(thread)
  end
end

M.in_wrap = coroutine.wrap(function()
  pcall(function()
    os.exit(7)
  end)
end)

function M.in_iterator(_, start_response)
  start_response(200, {})
  return function()
    os.exit(9)
  end
end

function M.in_handler()
  xpcall(error, function()
    os.exit(2)
  end)
end

function M.mid_body(_, start_response)
  start_response(200, {})
  local calls = 0
  return setmetatable({
    close = function()
      nibiru.log.info("closed")
    end,
  }, {
    __call = function()
      calls = calls + 1
      if calls == 2 then
        os.exit(4)
      end
      return "part"
    end,
  })
end

function M.after(environ)
  environ["nibiru.after_response"](function()
    os.exit(5)
  end)
  return 200, {}, "whole"
end

function M.in_close()
  return 200, {}, {
    "whole",
    close = function()
      os.exit(6)
    end,
  }
end

-- Statuses that are no small whole numbers.
for name, status in pairs({
  text = "3",
  negative = -1,
  whole = 4.0,
  large = 2 ^ 40 + 5,
  nan = 0 / 0,
  huge = math.huge,
  minus_huge = -math.huge,
  beyond = 2 ^ 63,
  fraction = 3.7,
  minus_fraction = -3.7,
}) do
  M[name] = function()
    os.exit(status)
  end
end

return M
