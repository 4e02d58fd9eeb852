-- Lets whoever has a token through to what Apache or lighttpd serves: nibiru serve app
--
-- AUTHORIZER_TOKENS="alice:TOKEN bob:TOKEN" says who has which. A client sends its own in `Authorization: Bearer TOKEN`,
-- or in a cookie of the name `token`.

local users = {}
for user, token in (os.getenv("AUTHORIZER_TOKENS") or ""):gmatch("([^%s:]+):(%S+)") do
  users[token] = user
end

local function token_of(environ)
  local header = environ.HTTP_AUTHORIZATION or ""
  return header:match("^Bearer (%S+)$") or (";" .. (environ.HTTP_COOKIE or "")):match("; *token=([^;%s]+)")
end

return function(environ)
  local user = users[token_of(environ) or ""]
  if user then
    -- Consent. The front end makes a variable of the header, for the log and for the application behind; nothing else of
    -- this answer goes anywhere.
    return 200, { ["Variable-REMOTE_USER"] = user }, ""
  end
  -- Everything but 200 denies, and is the client's answer. Apache sends it as HTML, whatever type it has: put nothing of the
  -- request into it that is not escaped.
  return 401, { ["WWW-Authenticate"] = 'Bearer realm="members"' }, "Please bring a token.\n"
end
