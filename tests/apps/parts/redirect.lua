return function(_, start_response)
  start_response("302 Found", { { "Location", "/hello?from=redirect" }, { "Content-Type", "text/plain" } })
  return { "over there\n" }
end
