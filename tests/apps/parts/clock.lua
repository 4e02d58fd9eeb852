-- Answers with the time in seconds.
return function()
  return 200, { ["Content-Type"] = "text/plain" }, tostring(os.time())
end
