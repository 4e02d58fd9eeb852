-- Server-sent events: every browser that has the page open sees the same clock.
--
--   nibiru dev --workers 4 --root examples/events app
--
-- A stream holds its worker for as long as it lasts, so there must be more workers than open pages.

local nibiru = require("nibiru")

-- Seconds between two events. Where news is rare, send a comment (a line that begins with ":") every 15 s instead:
-- proxies and --request-timeout cut a stream on which nothing happens.
local INTERVAL = 1

local PAGE = [[
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Events</title>
<h1>The server says it is <output>…</output></h1>
<script>
  const output = document.querySelector("output");
  const events = new EventSource("events");
  events.onmessage = (event) => { output.textContent = event.data; };
  // The browser connects again by itself.
  events.onerror = () => { output.textContent = "nothing"; };
</script>
]]

local function page()
  return 200, { ["Content-Type"] = "text/html; charset=utf-8" }, PAGE
end

local function events()
  local first = true
  local function next_event()
    -- False where the client has gone: there is nobody to send to.
    if not first and not nibiru.sleep(INTERVAL) then
      return nil
    end
    first = false
    return "data: " .. os.date("!%H:%M:%S UTC") .. "\n\n"
  end
  return 200,
    {
      ["Content-Type"] = "text/event-stream",
      ["Cache-Control"] = "no-store",
      -- nginx sends each event on at once.
      ["X-Accel-Buffering"] = "no",
    },
    next_event
end

local routes = { ["/"] = page, ["/events"] = events }

return function(environ)
  local route = routes[environ.PATH_INFO]
  if not route then
    return 404, { ["Content-Type"] = "text/plain" }, "Not Found\n"
  elseif environ.REQUEST_METHOD ~= "GET" and environ.REQUEST_METHOD ~= "HEAD" then
    return 405, { ["Content-Type"] = "text/plain", Allow = "GET, HEAD" }, "Method Not Allowed\n"
  end
  return route()
end
