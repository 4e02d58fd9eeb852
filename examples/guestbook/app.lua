--- A guestbook: shows the entries, takes a new one from a form, keeps them in SQLite.
--
--     nibiru serve --root examples/guestbook app
--
-- The proxy serves public/style.css; GUESTBOOK_DB names the database file (default: guestbook.db).

local form = require("form")
local html = require("html")
local store = require("store")

local MAX_BODY = 8 * 1024
local MAX_NAME, MAX_TEXT = 80, 2000

local PAGE = [[
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Guestbook</title>
<link rel="stylesheet" href="${mount}/style.css">
<main>
<h1>Guestbook</h1>
<form method="post" action="${mount}/">
<label>Name <input name="name" maxlength="80" autocomplete="name" required></label>
<label>Message <textarea name="text" maxlength="2000" rows="4" required></textarea></label>
<button>Sign</button>
</form>
<ol reversed>
${entries|raw}</ol>
</main>
</html>
]]

local ENTRY = [[
<li><p dir="auto">${text}</p><footer><bdi>${name}</bdi>, <time>${written}</time></footer></li>
]]

local function plain(status, text)
  return status, { { "Content-Type", "text/plain; charset=utf-8" } }, { text .. "\n" }
end

local function show(environ)
  local entries = {}
  for _, entry in ipairs(store.latest(50)) do
    entries[#entries + 1] = html.fill(ENTRY, entry)
  end
  local page = html.fill(PAGE, { mount = environ.SCRIPT_NAME, entries = table.concat(entries) })
  return "200 OK", { { "Content-Type", "text/html; charset=utf-8" } }, { page }
end

local function sign(environ)
  if (tonumber(environ.CONTENT_LENGTH) or 0) > MAX_BODY then
    return plain("413 Content Too Large", "That is more than a guestbook takes.")
  end
  local fields = form.decode(environ["wsgi.input"]:read("a"))
  local name, text = fields.name or "", fields.text or ""
  if name == "" or text == "" or #name > MAX_NAME * 4 or #text > MAX_TEXT * 4 then
    return plain("400 Bad Request", "A name and a message, please.")
  end
  store.add(name, text)
  -- Back to the page with GET, so that a reload does not sign twice.
  return "303 See Other", { { "Location", environ.SCRIPT_NAME .. "/" } }, { "" }
end

local routes = { GET = show, HEAD = show, POST = sign }

local function application(environ, start_response)
  local status, headers, body
  local route = routes[environ.REQUEST_METHOD]
  if environ.PATH_INFO ~= "/" and environ.PATH_INFO ~= "" then
    status, headers, body = plain("404 Not Found", "There is nothing here.")
  elseif not route then
    status, headers, body = plain("405 Method Not Allowed", "GET and POST only.")
    headers[#headers + 1] = { "Allow", "GET, HEAD, POST" }
  else
    status, headers, body = route(environ)
  end
  start_response(status, headers)
  return body
end

return { application = application }
