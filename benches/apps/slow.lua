-- A short answer for healthy clients, and a long one for those that `benches/slow-clients` has read it slowly.

local LONG = ("x"):rep(1024 * 1024)

local function application(environ)
  return 200, { ["Content-Type"] = "text/plain" }, environ.PATH_INFO == "/long" and LONG or "Hello, World!\n"
end

return { application = application }
