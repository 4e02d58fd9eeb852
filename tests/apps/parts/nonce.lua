-- Answers /nonce?dir=PATH&n=NONCE&k=TIMES&f=FORM with the nonce as a header and, repeated TIMES times, as the body, so
-- that a client detects a foreign or partial response. Appends a line for each execution to a file of the worker, so
-- that a test detects a request that ran twice.
local gate = require("gate")

local name

local function record(directory, nonce)
  name = name or ("ran.%s.%d"):format(gate.pid(), math.random(0, 999999999))
  local file = assert(io.open(directory .. "/" .. name, "a"))
  file:write(nonce, "\n")
  file:close()
end

--- Some microseconds of work, during which the worker can be killed after the execution was recorded.
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
  -- Streamed, without a Content-Length.
  stream = function(_, nonce, times)
    local piece = nonce:rep(256)
    local left = math.floor(times / 256)
    return function()
      work(5000)
      left = left - 1
      return left >= 0 and piece or nil
    end
  end,
  -- The request body.
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
