-- Answers with the worker's pid and eight random numbers.
local gate = require("gate")

return function(_, start_response)
  local numbers = {}
  for i = 1, 8 do
    numbers[i] = tostring(math.random(1000000))
  end
  start_response("200 OK", { { "Content-Type", "text/plain" } })
  return { gate.pid() .. ":" .. table.concat(numbers, ",") }
end
