-- An application that forks: /WHAT/HOW?dir=GATE, where HOW is a function of the module `process` (process.c), or
-- "posix" for Debian's lua-posix. WHAT is the child's behaviour.

local gate = require("gate")
local nibiru = require("nibiru")
local process = require("process")

local function fork(how)
  if how == "posix" then
    return require("posix.unistd").fork()
  end
  return process[how]()
end

--- Appends a byte to a file, which counts executions in all processes.
local function note(directory, name)
  local file = assert(io.open(directory .. "/" .. name, "a"))
  file:write("x")
  file:close()
end

-- The child's behaviour; the parent waits for its end. A function may return a response, as the child would.
local children = {
  exit = function()
    os.exit(7)
  end,
  exit_protected = function()
    pcall(os.exit, false)
  end,
  exit_in_a_coroutine = function()
    coroutine.wrap(function()
      os.exit(8)
    end)()
  end,
  raise = function()
    error("the child has failed")
  end,
  log = function(directory)
    nibiru.log.warn("the child logs", { a = 1 })
    nibiru.sleep(0)
    note(directory, "slept")
    os.exit(0)
  end,
  answer = function()
    return 200, {}, "the child's answer"
  end,
  answer_from_a_file = function(_, environ)
    return 200, {}, environ["wsgi.file_wrapper"]("app.lua")
  end,
  start_response = function(_, _, start_response)
    local write = start_response(200, {})
    write("the child's answer")
    return { "and more" }
  end,
  stream = function(directory)
    return 200, {}, setmetatable({
      close = function()
        note(directory, "closed")
      end,
    }, {
      __call = function()
        return "the child's answer"
      end,
    })
  end,
}

local whole = {}

for name, child in pairs(children) do
  whole[name] = function(directory, how, environ, start_response)
    environ["nibiru.after_response"](function()
      note(directory, "after")
    end)
    local pid = fork(how)
    if pid == 0 then
      return child(directory, environ, start_response)
    end
    return 200, {}, tostring(process.wait(pid))
  end
end

--- Forks between two chunks of a stream.
local function streamed(inside)
  return function(directory, how)
    local chunks = 0
    return 200, {}, setmetatable({
      close = function()
        note(directory, "closed")
      end,
    }, {
      __call = function()
        chunks = chunks + 1
        if chunks == 2 then
          local pid = fork(how)
          if pid == 0 then
            return inside()
          end
          return tostring(process.wait(pid))
        end
        return chunks == 1 and "chunk " or nil
      end,
    })
  end
end

whole.raise_in_a_stream = streamed(function()
  error("the child has failed")
end)
whole.chunk_in_a_stream = streamed(function()
  return "the child's chunk"
end)
whole.end_of_a_stream = streamed(function() end)

function whole.in_close(directory, how)
  return 200, {}, {
    "1",
    close = function()
      note(directory, "closed")
      local pid = fork(how)
      if pid ~= 0 then
        gate.announce(directory, "status", process.wait(pid))
      end
    end,
  }
end

function whole.after_response(directory, how, environ)
  environ["nibiru.after_response"](function()
    local pid = fork(how)
    if pid ~= 0 then
      gate.announce(directory, "status", process.wait(pid))
    end
  end)
  environ["nibiru.after_response"](function()
    note(directory, "after")
  end)
  return 200, {}, "1"
end

--- The child goes on after its parent's response.
function whole.goes_on(directory, how)
  local pid = fork(how)
  if pid == 0 then
    gate.announce(directory, "child", gate.pid())
    gate.wait(directory, "go")
    print("the child is at its end")
    return 200, {}, "the child's answer"
  end
  return 200, {}, "1"
end

local M = {}

function M.application(environ, start_response)
  local what, how = environ.PATH_INFO:match("^/([%w_]+)/?(%w*)$")
  if what == "pid" then
    return 200, {}, tostring(gate.pid())
  end
  return whole[what](gate.directory(environ), how, environ, start_response)
end

return M
