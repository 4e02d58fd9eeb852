-- A response of 30 MB, which exceeds sockets and buffers.
return function()
  return 200, {}, ("x"):rep(30000000)
end
