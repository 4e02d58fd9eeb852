-- The application of most acceptance tests: the first segment of the path names the file in parts/ that answers.

local M = {}

function M.application(environ, start_response)
  local name = environ.PATH_INFO:match("^/([%w_]+)") or "hello"
  local found, part = pcall(require, "parts." .. name)
  if not found then
    start_response("404 Not Found", { { "Content-Type", "text/plain" } })
    return { "no part " .. name .. ": " .. tostring(part) .. "\n" }
  end
  return part(environ, start_response)
end

return M
