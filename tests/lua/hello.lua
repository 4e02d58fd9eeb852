-- The applications of the benchmark and of the memory test.

local M = {}

function M.application(environ, start_response)
  start_response("200 OK", { { "Content-Type", "text/plain" } })
  return { "Hello, World!\n" }
end

function M.short()
  return 200, { ["Content-Type"] = "text/plain" }, "Hello, World!\n"
end

function M.five_headers(environ, start_response)
  start_response("200 OK", {
    { "Content-Type", "text/html; charset=utf-8" },
    { "Cache-Control", "no-store" },
    { "ETag", '"0123456789abcdef"' },
    { "Set-Cookie", "session=0123456789abcdef; HttpOnly" },
    { "Vary", "Accept-Encoding" },
  })
  return "<p>Hello, World!\n"
end

function M.iterated(environ, start_response)
  start_response("200 OK", { { "Content-Type", "text/plain" } })
  return ipairs({ "Hello, ", "World!\n" })
end

return M
