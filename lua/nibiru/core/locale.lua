--- The process's locale, which belongs to no request: a request that changes it would change numbers, cases and classes of
--- characters for the requests that follow.
---
--- Called by `server` before and after each request.

local warnings = ...

local setlocale, warn_once = os.setlocale, warnings.once

-- The locale at the worker's first request, which loading and start hooks may have chosen.
local original

local M = {}

--- Notes the locale, once.
function M.note()
  original = original or setlocale()
end

--- Puts the locale back where it has changed. The query is no system call and allocates nothing.
function M.restore()
  local now = setlocale()
  if now ~= original then
    setlocale(original)
    warn_once("locale", "the application has changed the locale to " .. now .. "; it is " .. original .. " again for the next request")
  end
end

return M
