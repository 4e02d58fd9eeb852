-- Fails in the way that the path names: /fail/HOW?dir=PATH.
local gate = require("gate")

local function plain(start_response, length)
  local headers = { { "Content-Type", "text/plain" }, { "X-Accel-Buffering", "no" } }
  if length then
    headers[#headers + 1] = { "Content-Length", tostring(length) }
  end
  start_response("200 OK", headers)
end

--- Sends one chunk, and kills the worker when the test has seen it.
local function die_after_a_chunk(environ)
  local directory = gate.directory(environ)
  local chunks = 0
  return function()
    chunks = chunks + 1
    if chunks == 1 then
      return "only the beginning\n"
    end
    gate.wait(directory, "seen1")
    gate.die()
  end
end

local ways = {
  error = function()
    error("deliberate failure")
  end,
  error_table = function()
    error({ code = 42 })
  end,
  exit = function()
    os.exit(0)
  end,
  killed_before_head = function()
    gate.die()
  end,
  killed_in_body_with_length = function(environ, start_response)
    plain(start_response, 100000)
    return die_after_a_chunk(environ)
  end,
  killed_in_body_without_length = function(environ, start_response)
    plain(start_response)
    return die_after_a_chunk(environ)
  end,
  header_with_line_break = function(_, start_response)
    start_response("200 OK", { { "X-Bad", "a\r\nSet-Cookie: stolen=1" } })
    return { "never seen" }
  end,
}

return function(environ, start_response)
  local how = environ.PATH_INFO:match("^/fail/([%w_]+)")
  return ways[how](environ, start_response)
end
