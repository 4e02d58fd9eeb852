-- An answer of 30 MB, more than sockets and buffers hold.
return function()
  return 200, {}, ("x"):rep(30000000)
end
