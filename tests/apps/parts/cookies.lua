return function(_, start_response)
  start_response("200 OK", {
    { "Content-Type", "text/plain" },
    { "Set-Cookie", "a=1; Path=/" },
    { "Set-Cookie", "b=2; Path=/" },
  })
  return { "two cookies\n" }
end
