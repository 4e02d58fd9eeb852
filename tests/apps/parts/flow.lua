-- Streams a response in the way that the path names: /flow/HOW?dir=PATH. Announces "started" with its pid first. The
-- files "closed", "write" and "after" tell the rest.
local gate = require("gate")
local nibiru = require("nibiru")

--- Adds a line to the file `name`, so that a test can count them.
local function add(directory, name, line)
  local file = assert(io.open(directory .. "/" .. name, "a"))
  file:write(line, "\n")
  file:close()
end

local function exists(path)
  local file = io.open(path)
  if file then
    file:close()
  end
  return file ~= nil
end

local function nap()
  os.execute("sleep 0.02")
end

--- A body that calls `next_chunk`, and adds a line to "closed" when it is closed.
local function body(directory, next_chunk)
  return setmetatable({
    close = function()
      add(directory, "closed", "closed")
    end,
  }, { __call = next_chunk })
end

--- Three chunks; each but the first is made when the test has seen the one before.
local function gated(directory, chunk)
  if chunk > 3 then
    return nil
  elseif chunk > 1 then
    gate.wait(directory, "seen" .. (chunk - 1))
  end
  return "chunk " .. chunk .. "\n"
end

local UNBUFFERED = { { "X-Accel-Buffering", "no" } }

local ways = {}

ways["function"] = function(directory)
  local chunk = 0
  return 200, UNBUFFERED, function()
    chunk = chunk + 1
    return gated(directory, chunk)
  end
end

function ways.write(directory, _, start_response)
  local write = start_response(200, UNBUFFERED)
  for chunk = 1, 3 do
    write(gated(directory, chunk))
  end
  return {}
end

ways["for"] = function(directory)
  return 200, UNBUFFERED, function(state, chunk)
    chunk = chunk + 1
    local text = gated(state, chunk)
    if text then
      return chunk, text
    end
  end, directory, 0
end

function ways.sized(directory)
  local chunk = 0
  return 200, { { "X-Accel-Buffering", "no" }, { "Content-Length", 3 * #"chunk 1\n" } }, function()
    chunk = chunk + 1
    return gated(directory, chunk)
  end
end

function ways.events(directory)
  local chunk = 0
  return 200, { { "X-Accel-Buffering", "no" }, { "Content-Type", "text/event-stream" } }, function()
    chunk = chunk + 1
    local text = gated(directory, chunk)
    return text and "data: " .. text .. "\n"
  end
end

--- An endless body, with a line every 20 ms.
local function ticks(headers)
  return function(directory)
    return 200, headers, body(directory, function()
      nap()
      return "tick\n"
    end)
  end
end

ways.tick = ticks(UNBUFFERED)
ways.tick_buffered = ticks({})
ways.tick_sized = ticks({ { "X-Accel-Buffering", "no" }, { "Content-Length", 1000000 } })

function ways.tick_write(directory, _, start_response)
  local write = start_response(200, UNBUFFERED)
  local ok, problem = pcall(function()
    while true do
      nap()
      write("tick\n")
    end
  end)
  add(directory, "write", tostring(problem))
  return body(directory, function() end)
end

--- An endless body without pauses. Announces the number of chunks that are made.
local function flood(size)
  local text = ("x"):rep(size)
  return function(directory)
    local chunk = 0
    return 200, UNBUFFERED, body(directory, function()
      chunk = chunk + 1
      gate.announce(directory, "made", tostring(chunk))
      return text
    end)
  end
end

ways.flood = flood(16 * 1024)
ways.flood_large = flood(1024 * 1024)

--- Sends a chunk, then empty chunks until "go", which fail when the client has left.
function ways.poll(directory)
  local first = true
  return 200, UNBUFFERED, body(directory, function()
    if first then
      first = false
      return "first\n"
    end
    nap()
    return exists(directory .. "/go") and "tick\n" or ""
  end)
end

--- Sends only empty chunks.
function ways.poll_first(directory)
  return 200, UNBUFFERED, body(directory, function()
    nap()
    return ""
  end)
end

--- Sends a chunk, then sleeps for longer than any test runs.
function ways.sleep(directory)
  local first = true
  return 200, UNBUFFERED, body(directory, function()
    if first then
      first = false
      return "first\n"
    end
    gate.announce(directory, "asleep")
    add(directory, "slept", tostring(nibiru.sleep(3600)))
    return "nobody hears this\n"
  end)
end

--- Sleeps before the response head.
function ways.sleep_first(directory)
  gate.announce(directory, "asleep")
  add(directory, "slept", tostring(nibiru.sleep(3600)))
  return 200, {}, body(directory, function() end)
end

--- Sleeps for a moment before the response and after it.
function ways.sleep_after(directory, environ)
  environ["nibiru.after_response"](function()
    gate.announce(directory, "after", tostring(nibiru.sleep(0.05)))
  end)
  return 200, {}, tostring(nibiru.sleep(0.05)) .. "\n"
end

--- Waits for "go" before the response head.
function ways.whole(directory, environ)
  environ["nibiru.after_response"](function()
    gate.announce(directory, "after")
  end)
  gate.wait(directory, "go")
  return 200, {}, body(directory, function() end)
end

function ways.write_late(directory, _, start_response)
  local write = start_response(200, {})
  gate.wait(directory, "go")
  local ok, problem = pcall(write, "too late\n")
  add(directory, "write", tostring(ok) .. " " .. tostring(problem))
  return body(directory, function() end)
end

--- Records the order of `close` and the `after_response` functions, the first of which waits for "go".
local function after(answer)
  return function(directory, environ)
    local after_response = environ["nibiru.after_response"]
    after_response(function()
      add(directory, "order", "first")
      gate.announce(directory, "after")
      gate.wait(directory, "go")
      after_response(function()
        add(directory, "order", "third")
        gate.announce(directory, "done")
      end)
      error("deliberate failure after the response")
    end)
    after_response(function()
      add(directory, "order", "second")
    end)
    return 200, UNBUFFERED, answer(directory)
  end
end

local function closes(directory)
  add(directory, "order", "close")
end

ways.after_small = after(function()
  return "small\n"
end)

ways.after_large = after(function()
  return ("large\n"):rep(1000000)
end)

ways.after_stream = after(function(directory)
  local chunk = 0
  return setmetatable({ close = function() closes(directory) end }, {
    __call = function()
      chunk = chunk + 1
      return chunk <= 3 and "chunk " .. chunk .. "\n" or nil
    end,
  })
end)

--- Runs for ever, after a stream of twelve lines, each a twentieth of a second after the one before.
function ways.after_stuck(directory, environ)
  environ["nibiru.after_response"](function()
    gate.announce(directory, "after")
    nibiru.sleep(3600)
  end)
  local chunk = 0
  return 200, UNBUFFERED, body(directory, function()
    nibiru.sleep(0.05)
    chunk = chunk + 1
    return chunk <= 12 and "tick\n" or nil
  end)
end

return function(environ, start_response)
  local directory = gate.directory(environ)
  gate.announce(directory, "started", gate.pid())
  return ways[environ.PATH_INFO:match("^/flow/([%w_]+)")](directory, environ, start_response)
end
