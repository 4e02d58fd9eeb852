-- Answers /nonce?dir=PATH&n=NONCE&k=TIMES&f=FORM with the nonce as a header, and as often as it was asked for as the body:
-- a client can tell any other answer, and any part of this one. Leaves a line for each execution in a file of its
-- worker's, so that a test finds a request that ran twice.
local gate = require("gate")

local name

local function record(directory, nonce)
  name = name or ("ran.%s.%d"):format(gate.pid(), math.random(0, 999999999))
  local file = assert(io.open(directory .. "/" .. name, "a"))
  file:write(nonce, "\n")
  file:close()
end

--- Some microseconds of work, in which a worker can be killed whose request has had its effect.
local function work(rounds)
  local sum = 0
  for i = 1, rounds do
    sum = sum + i % 7
  end
  return sum
end

local bodies = {
  small = function(_, nonce, times)
    return nonce:rep(times)
  end,
  work = function(_, nonce, times)
    work(50000)
    return nonce:rep(times)
  end,
  -- Without a Content-Length, a piece at a time.
  stream = function(_, nonce, times)
    local piece = nonce:rep(256)
    local left = math.floor(times / 256)
    return function()
      work(5000)
      left = left - 1
      return left >= 0 and piece or nil
    end
  end,
  -- What came is what goes.
  upload = function(environ)
    return environ["wsgi.input"]:read("a")
  end,
}

return function(environ)
  local query = environ.QUERY_STRING
  local nonce = query:match("n=(%x+)")
  record(gate.directory(environ), nonce)
  local body = bodies[query:match("f=(%w+)")](environ, nonce, tonumber(query:match("k=(%d+)")))
  return 200, { ["Content-Type"] = "text/plain", ["X-Nonce"] = nonce }, body
end
