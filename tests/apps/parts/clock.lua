-- What time it is.
return function()
  return 200, { ["Content-Type"] = "text/plain" }, tostring(os.time())
end
