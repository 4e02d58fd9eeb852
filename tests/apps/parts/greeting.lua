-- A pure-Lua module from the LuaRocks tree beside the application.
local greeting = require("greeting")

return function(_, start_response)
  start_response("200 OK", { { "Content-Type", "text/plain" } })
  return { greeting.of("Nibiru") }
end
