local M = {}

function M.of(name)
  return "Silim, " .. name .. "!\n"
end

return M
