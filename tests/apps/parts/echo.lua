-- Answers with the request body, unchanged.
return function(environ, start_response)
  local body = environ["wsgi.input"]:read("a")
  start_response("200 OK", {
    { "Content-Type", "application/octet-stream" },
    { "X-Length", tostring(#body) },
    { "X-Method", environ.REQUEST_METHOD },
    { "X-Content-Type", environ.CONTENT_TYPE or "" },
  })
  return { body }
end
