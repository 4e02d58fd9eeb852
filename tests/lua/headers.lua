-- Every form of the headers, valid and invalid. The expected heads include the default Content-Type.

local text = "Content-Type: text/plain; charset=utf-8|"

local rows = {
  { "empty", {}, text },
  { "list", { { "X-A", "1" }, { "X-B", "2" } }, "X-A: 1|X-B: 2|" .. text },
  { "list keeps order and repeats", { { "Set-Cookie", "b=2" }, { "Set-Cookie", "a=1" } }, "Set-Cookie: b=2|Set-Cookie: a=1|" .. text },
  { "number in a list", { { "X-A", 12 } }, "X-A: 12|" .. text },
  { "map", { ["X-A"] = "1" }, "X-A: 1|" .. text },
  { "map with a number", { ["X-A"] = 3.0 }, "X-A: 3|" .. text },
  { "map with a fraction", { ["X-A"] = 0.5 }, "X-A: 0.5|" .. text },
  { "map with a large number", { ["X-A"] = 2 ^ 52 }, "X-A: 4503599627370496|" .. text },
  { "map with an array", { ["Set-Cookie"] = { "a=1", "b=2" } }, "Set-Cookie: a=1|Set-Cookie: b=2|" .. text },
  { "empty value", { { "X-A", "" } }, "X-A: |" .. text },
  { "tab and bytes in a value", { { "X-A", "a\tb\255" } }, "X-A: a\tb\239\191\189|" .. text },
  { "every mark of a token", { { "!#$%&'*+-.^_`|~09aZ", "1" } }, "!#$%&'*+-.^_`|~09aZ: 1|" .. text },
  { "Content-Type replaces the default", { { "content-type", "text/html" } }, "content-type: text/html|" },
  { "right Content-Length", { { "Content-Length", "1" } }, text },
  { "right Content-Length again, in a map", { ["Content-Length"] = "1" }, text },
  { "right Content-Length, as a number", { ["content-length"] = 1 }, text },
  { "right Content-Length, as a number again", { { "content-length", 1 } }, text },

  { "nil", nil, nil, "headers must be a table, got nil" },
  { "string", "X-A: 1", nil, 'headers must be a table, got "X-A: 1"' },
  { "flat list", { "X-A", "1" }, nil, "headers[1] must be a pair" },
  { "pair without a value", { { "X-A" } }, nil, "headers[1]: header X-A must be a string or a number, got nil" },
  { "pair with a boolean", { { "X-A", "1" }, { "X-B", true } }, nil, "headers[2]: header X-B must be a string or a number, got true" },
  { "pair with two values", { { "X-A", "1", "2" } }, nil, "headers[1]: a pair has a name and one value" },
  { "pair without a name", { { nil, "1" } }, nil, "headers[1]: header name must be a string, got nil" },
  { "number as a name", { { 5, "1" } }, nil, "header name must be a string, got 5" },
  { "list and map", { { "X-A", "1" }, ["X-B"] = "2" }, nil, 'not both: found the key "X-B"' },
  { "list with a hole", { { "X-A", "1" }, nil, { "X-B", "2" } }, nil, "a hole: headers[2] is nil but there is a headers[3]" },
  { "map with an empty array", { ["X-A"] = {} }, nil, "header X-A has an empty array" },
  { "map in a map", { ["X-A"] = { "1", b = 2 } }, nil, "header X-A: its values must be an array" },
  { "map with a function", { ["X-A"] = print }, nil, "header X-A must be a string or a number, got function" },
  { "key that is no name", { [2] = "1" }, nil, "header name must be a string, got 2" },
  { "NaN", { ["X-A"] = 0 / 0 }, nil, "header X-A must be a finite number" },
  { "infinity", { ["X-A"] = math.huge }, nil, "header X-A must be a finite number" },

  { "CR in a value", { { "X-A", "a\rb" } }, nil, "header X-A contains CR at byte 2" },
  { "LF in a value", { { "X-A", "a\nSet-Cookie: x" } }, nil, "header X-A contains LF at byte 2" },
  { "CRLF in a map", { ["X-A"] = "a\r\nX: y" }, nil, "header X-A contains CR at byte 2" },
  { "LF in an array of values", { ["X-A"] = { "a", "b\n" } }, nil, "header X-A contains LF at byte 2" },
  { "NUL in a value", { { "X-A", "a\0b" } }, nil, "header X-A contains NUL at byte 2" },
  { "control in a value", { { "X-A", "a\27" } }, nil, "header X-A contains control character 0x1B at byte 2" },
  { "DEL in a value", { { "X-A", "\127" } }, nil, "header X-A contains control character 0x7F at byte 1" },
  { "LF in a name", { { "X-A\n", "1" } }, nil, "is not a valid name" },
  { "NUL in a name", { { "X-A\0", "1" } }, nil, "is not a valid name" },
  { "colon in a name", { { "X-A:", "1" } }, nil, 'header name "X-A:" is not a valid name' },
  { "space in a name", { { "X A", "1" } }, nil, "is not a valid name" },
  { "empty name", { { "", "1" } }, nil, 'header name "" is not a valid name' },
  { "bytes in a name", { { "X-\195\164", "1" } }, nil, "is not a valid name" },

  { "Status", { { "Status", "200 OK" } }, nil, "header Status is not allowed" },
  { "status in a map", { status = 200 }, nil, "header Status is not allowed" },
  -- Removed, and logged once for each Lua state.
  { "Transfer-Encoding", { { "transfer-encoding", "chunked" } }, text, "header transfer-encoding: chunked is left out" },
  { "Transfer-Encoding again, in a map", { ["Transfer-Encoding"] = "Chunked" }, text },
  { "Transfer-Encoding between blanks", { { "X-A", "1" }, { "Transfer-Encoding", " chunked\t" } }, "X-A: 1|" .. text },
  { "Transfer-Encoding that means none", { { "Transfer-Encoding", "identity" } }, text },
  { "Transfer-Encoding twice", { { "Transfer-Encoding", "chunked" }, { "Transfer-Encoding", "chunked" } }, text },
  { "Transfer-Encoding beside a Content-Length", { { "Transfer-Encoding", "chunked" }, { "Content-Length", 1 } }, text },
  { "Connection", { { "Connection", "close" } }, text, "header Connection: close is left out" },
  { "Connection again", { { "connection", "Keep-Alive" } }, text },
  { "Keep-Alive", { { "Keep-Alive", "timeout=5, max=100" } }, text, "header Keep-Alive: timeout=5, max=100 is left out" },
  { "Transfer-Encoding of another coding", { { "Transfer-Encoding", "gzip" } }, nil, 'header Transfer-Encoding is hop-by-hop: it belongs to the connection, which the proxy owns, got "gzip"' },
  { "Transfer-Encoding of two codings", { { "Transfer-Encoding", "gzip, chunked" } }, nil, 'got "gzip, chunked"' },
  { "Transfer-Encoding with a line break", { { "Transfer-Encoding", "chunked\n" } }, nil, "header Transfer-Encoding contains LF" },
  { "Connection to another protocol", { { "Connection", "upgrade" } }, nil, "header Connection is hop-by-hop" },
  { "Connection that names a header", { { "Connection", "close, X-A" } }, nil, "header Connection is hop-by-hop" },
  { "Upgrade", { { "Upgrade", "h2c" } }, nil, "header Upgrade is hop-by-hop" },
  { "Trailer", { { "Trailer", "X-A" } }, nil, "header Trailer is hop-by-hop" },
  { "TE", { { "TE", "trailers" } }, nil, "header TE is hop-by-hop" },
  { "Proxy-Connection", { { "Proxy-Connection", "close" } }, nil, "header Proxy-Connection is hop-by-hop" },

  { "Content-Type twice", { { "Content-Type", "text/html" }, { "Content-Type", "text/html" } }, nil, "headers[2]: header Content-Type is given twice" },
  { "Content-Type in two spellings", { ["Content-Type"] = "text/html", ["content-type"] = "text/plain" }, nil, "is given twice" },
  { "Content-Type with two values", { ["Content-Type"] = { "text/html", "text/plain" } }, nil, "header Content-Type is given twice" },
  { "Location twice", { { "Location", "/a" }, { "location", "/b" } }, nil, "headers[2]: header location is given twice" },
  { "Date twice", { { "Date", "x" }, { "Date", "x" } }, nil, "header Date is given twice" },
  { "Server twice", { { "Server", "x" }, { "Server", "x" } }, nil, "header Server is given twice" },
  { "ETag twice", { { "ETag", '"a"' }, { "ETag", '"b"' } }, nil, "header ETag is given twice" },
  { "headers that may be repeated", { { "Vary", "A" }, { "Vary", "B" }, { "X-A", "1" }, { "X-A", "1" } }, "Vary: A|Vary: B|X-A: 1|X-A: 1|" .. text },
  { "Content-Length twice", { { "Content-Length", "1" }, { "content-length", "1" } }, nil, "headers[2]: header Content-Length is given twice" },
  { "Content-Length twice, as a number", { { "content-length", 1 }, { "content-length", 1 } }, nil, "headers[2]: header Content-Length is given twice" },
  { "Content-Length twice in one spelling", { { "Content-Length", "1" }, { "Content-Length", "1" } }, nil, "headers[2]: header Content-Length is given twice" },
  { "Content-Length of words", { { "Content-Length", "one" } }, nil, 'must be a number of bytes, got "one"' },
  { "Content-Length with a sign", { { "Content-Length", "+1" } }, nil, 'must be a number of bytes, got "+1"' },
  { "negative Content-Length", { { "Content-Length", -1 } }, nil, 'must be a number of bytes, got "-1"' },
  { "empty Content-Length", { { "Content-Length", "" } }, nil, 'must be a number of bytes, got ""' },
  { "endless Content-Length", { { "Content-Length", ("9"):rep(40) } }, nil, "must be a number of bytes" },
}

local cases = {}
for _, row in ipairs(rows) do
  local name, headers, head, problem = row[1], row[2], row[3], row[4]
  cases[#cases + 1] = {
    name = name,
    app = function(_, start_response)
      start_response(200, headers)
      return "x"
    end,
    body = head and "x" or nil,
    status = head and "200 OK" or "500 Internal Server Error",
    head = head and head .. "Content-Length: 1||" or nil,
    log = problem,
  }
end

-- Accepted names and values are cached, which must not let invalid ones through unchecked.
cases[#cases + 1] = {
  name = "a known name with a bad value",
  app = function(_, start_response)
    start_response(200, { { "X-A", "fine" }, { "X-A", "not\nfine" } })
    return "x"
  end,
  status = "500 Internal Server Error",
  log = "headers[2]: header X-A contains LF at byte 4",
}
-- The same number, but another text.
for _, row in ipairs({ { "01", "01" }, { 1, "1" }, { "01", "01" }, { "1", "1" }, { 1, "1" } }) do
  cases[#cases + 1] = {
    name = "a length of " .. row[2] .. " as a " .. type(row[1]) .. " after other ones",
    app = function()
      return 200, { ["Content-Length"] = row[1] }, "x"
    end,
    head = "Content-Type: text/plain; charset=utf-8|Content-Length: " .. row[2] .. "||",
  }
end
for _, name in ipairs({ "first", "second" }) do
  cases[#cases + 1] = {
    name = "one of a kind is not remembered from the response before, the " .. name .. " time",
    app = function()
      return 200, { { "Content-Type", "text/css" }, { "Location", "/here" } }, "x"
    end,
    head = "Content-Type: text/css|Location: /here|Content-Length: 1||",
  }
end
cases[#cases + 1] = {
  name = "the log names the application's own line",
  app = function(_, start_response)
    start_response(200, { { "X A", "1" } })
    return "x"
  end,
  log = "tests/lua/headers.lua:" .. debug.getinfo(1, "l").currentline - 3 .. ": headers[1]",
}
cases[#cases + 1] = {
  name = "an application that catches the error and goes on without a head",
  app = function(_, start_response)
    pcall(start_response, 200, { { "X A", "1" } })
    return "x"
  end,
  status = "500 Internal Server Error",
  log = "start_response was not called before the body",
}

cases[#cases + 1] = {
  name = "a head that exceeds the limit",
  app = function()
    return 200, { ["X-Large"] = ("x"):rep(65536) }, "x"
  end,
  status = "500 Internal Server Error",
  log = "the response head has more than 65536 bytes",
}

cases[#cases + 1] = {
  name = "a head that exceeds the limit only with the added lines",
  app = function()
    return 200, { ["X-Large"] = ("x"):rep(65500) }, "x"
  end,
  status = "500 Internal Server Error",
  log = "bytes, and may have 65536",
}

-- Endless heads, which are refused as soon as they exceed the limit.
local looks
local function endless(value)
  looks = 0
  return setmetatable({}, {
    __index = function()
      looks = looks + 1
      return looks < 1e5 and value or error("looked at 100,000 headers")
    end,
  })
end
for name, value in pairs({
  ["a header that is repeated"] = { "X-A", "1" },
  ["an empty header that is repeated"] = { "X", "" },
  ["a header that is repeated and left out"] = { "Connection", "close" },
}) do
  cases[#cases + 1] = {
    name = name .. " without end",
    app = function()
      return 200, endless(value), "x"
    end,
    status = "500 Internal Server Error",
    log = "the response head has more than 65536 bytes",
    after = function()
      assert(looks <= 16386, looks)
    end,
  }
end
for name, values in pairs({ ["X-A"] = "v", ["Keep-Alive"] = "5" }) do
  cases[#cases + 1] = {
    name = "a map with very many values of " .. name,
    app = function()
      local all = {}
      for position = 1, 20000 do
        all[position] = values
      end
      return 200, { [name] = all }, "x"
    end,
    status = "500 Internal Server Error",
    log = "the response head has more than 65536 bytes",
  }
end
for name, headers in pairs({ value = { { "X-A", ("x\n"):rep(40000) } }, name = { { ("x\n"):rep(40000), "" } } }) do
  cases[#cases + 1] = {
    name = "a " .. name .. " that is too long is not looked at",
    app = function()
      return 200, headers, "x"
    end,
    status = "500 Internal Server Error",
    log = "headers[1]: the response head has more than 65536 bytes",
  }
end
cases[#cases + 1] = {
  name = "a status that is too long is not looked at",
  app = function()
    return "200 " .. ("x\n"):rep(40000), {}, "x"
  end,
  status = "500 Internal Server Error",
  log = "the response head has more than 65536 bytes",
}

return cases
