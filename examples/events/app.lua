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
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Events</title>
<style>
  :root { color-scheme: light dark; }
  body {
    display: grid;
    align-content: center;
    min-height: 100vh;
    box-sizing: border-box;
    margin: 0;
    padding: 1rem;
    font: 1.25rem/1.5 system-ui, sans-serif;
    text-align: center;
  }
  h1 { margin: 0; font-size: 1em; font-weight: 400; }
  /* Digits of one width, so that nothing moves when the time does. */
  output { display: block; font-size: clamp(1.75rem, 11vw, 5rem); font-weight: 600; font-variant-numeric: tabular-nums; }
</style>
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
