-- A body of another length than its Content-Length never passes as complete.

local function giving(...)
  local values, position = { ... }, 0
  return function()
    position = position + 1
    return values[position]
  end
end

local function app(length, body)
  return function(_, start_response)
    start_response(200, { { "Content-Length", length } })
    return body()
  end
end

local failed = "500 Internal Server Error"
local head = "Content-Type: text/plain; charset=utf-8|Content-Length: 3||"

return {
  { name = "right string", app = app("3", function() return "abc" end), head = head, body = "abc" },
  { name = "right array", app = app(3, function() return { "a", "bc" } end), head = head, body = "abc" },
  { name = "right stream", app = app("3", function() return giving("a", "bc") end), head = head, chunks = { "a", "bc" } },
  { name = "leading zero", app = app("03", function() return "abc" end), body = "abc" },
  { name = "string too short", app = app("4", function() return "abc" end), status = failed, log = "the body has 3 bytes, but its Content-Length is 4" },
  { name = "string too long", app = app("2", function() return "abc" end), status = failed, log = "the body has 3 bytes, but its Content-Length is 2" },
  { name = "array too short", app = app("4", function() return { "abc" } end), status = failed, log = "the body has 3 bytes" },
  { name = "no body where one was promised", app = app("4", function() return {} end), status = failed, log = "the body has 0 bytes" },
  { name = "stream without chunks", app = app("4", function() return giving() end), status = failed, log = "the body has 0 bytes" },
  { name = "stream whose first chunk is too long", app = app("2", function() return giving("abc") end), status = failed,
    log = "the body is longer than its Content-Length of 2" },
  { name = "stream too short", app = app("4", function() return giving("abc") end), outcome = "Broken", chunks = { "abc" },
    log = "the body ended after 3 bytes, but its Content-Length is 4" },
  { name = "stream too long", app = app("4", function() return giving("abc", "de") end), outcome = "Broken", chunks = { "abc" },
    log = "the body is longer than its Content-Length of 4" },
  { name = "write too long", outcome = "Broken", body = "ab", log = "longer than its Content-Length of 2", app = function(_, start_response)
      local write = start_response(200, { { "Content-Length", 2 } })
      write("ab")
      write("c")
      return {}
    end },
  { name = "write and a body add up", body = "abc", app = function(_, start_response)
      start_response(200, { { "Content-Length", 3 } })("ab")
      return "c"
    end },
  { name = "HEAD with a body of another length", method = "HEAD", app = app("4", function() return "abc" end), status = failed, body = "",
    log = "the body has 3 bytes, but its Content-Length is 4" },
  { name = "HEAD with a stream that is too long at once", method = "HEAD", app = app("2", function() return giving("abc") end),
    status = failed, body = "", log = "the body is longer than its Content-Length of 2" },
  { name = "an error after the last promised byte", outcome = "Broken", chunks = { "abc" }, log = "too late",
    app = app("3", function()
      local chunk = giving("abc")
      return function() return chunk() or error("too late") end
    end) },
  { name = "HEAD too short", method = "HEAD", app = app("4", function() return "" end), body = "" },
  { name = "HEAD with a short stream", method = "HEAD", app = app("4", function() return giving("a") end), body = "" },
  { name = "304 too short", body = "", app = function() return 304, { ["Content-Length"] = 4 }, "" end },
}
