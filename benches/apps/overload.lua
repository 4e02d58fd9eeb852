-- Takes 20 ms for each request, as one that waits for a database does, so that two workers answer 100 a second.

local nibiru = require("nibiru")

local function application()
  nibiru.sleep(0.02)
  return 200, { ["Content-Type"] = "text/plain" }, "Hello, World!\n"
end

return { application = application }
