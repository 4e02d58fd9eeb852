-- The smallest application: nibiru serve app

local function application(_, start_response)
  start_response("200 OK", { { "Content-Type", "text/plain; charset=utf-8" } })
  return { "Hello, World!\n" }
end

return { application = application }
