return function(_, start_response)
  start_response("200 OK", { { "Content-Type", "text/plain" } })
  return { "Hello, World!\n" }
end
