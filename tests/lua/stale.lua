-- Keeps every object of its first request and tries to use it in the second one.

local kept

local function refuses(part, fn, ...)
  local ok, problem = pcall(fn, ...)
  assert(not ok and tostring(problem):find(part, 1, true), tostring(problem))
end

local function application(environ, start_response)
  if not kept then
    kept = { start_response = start_response, input = environ["wsgi.input"] }
    kept.write = start_response(200, {})
    return "first"
  end
  refuses("after the request had ended", kept.start_response, 200, {})
  refuses("after the request had ended", kept.write, "x")
  refuses("closed file", kept.input.read, kept.input)
  start_response(200, {})
  return "safe"
end

return application
