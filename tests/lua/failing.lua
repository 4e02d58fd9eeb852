-- Every way to fail: the client gets a plain 500 page, and the log one line with all details.

local function overflow()
  return 1 + overflow()
end

local rows = {
  { "error with a string", function() error("broken") end, "failing.lua:" },
  { "error without a position", function() error("broken", 0) end, ": broken\nstack traceback:" },
  { "runtime error", function() return nil + 1 end, "attempt to perform arithmetic on a nil value" },
  { "error in a called function", function() string.rep() end, "bad argument #1 to 'rep'" },
  { "table", function() error({ code = 42, text = "down" }) end, 'error object is a table: { code = 42, text = "down" }' },
  { "table with __tostring", function() error(setmetatable({}, { __tostring = function() return "spoken" end })) end, ": spoken" },
  { "table whose __tostring fails", function() error(setmetatable({}, { __tostring = error })) end, "whose __tostring failed" },
  { "table whose __tostring gives no string", function() error(setmetatable({}, { __tostring = function() end })) end, "error object is a table" },
  { "nil", function() error(nil) end, "error object" },
  { "false", function() error(false) end, "error object is false" },
  { "number", function() error(5) end, "5" },
  { "function", function() error(print) end, "error object is a function" },
  { "assert", function() assert(nil, "asserted") end, "asserted" },
  { "error in an error handler", function() xpcall(error, error); error("after all") end, "after all" },
  { "stack overflow", overflow, "overflow" },
  { "out of memory", function() return ("x"):rep(2 ^ 30) end, "not enough memory", 2 ^ 26 },
  { "dead coroutine", function()
    local f = coroutine.wrap(function() end)
    f()
    f()
  end, "dead coroutine" },
}

local cases = {}
for _, row in ipairs(rows) do
  local name, fail, problem, memory = row[1], row[2], row[3], row[4]
  local function case(fields)
    fields.memory = memory
    fields.not_logged = "nibiru/core/"
    cases[#cases + 1] = fields
  end
  case({
    name = name .. ", in the application",
    app = function() fail() end,
    status = "500 Internal Server Error",
    head = "Content-Type: text/plain; charset=utf-8|Content-Length: 22||",
    body = "Internal Server Error\n",
    log = problem,
  })
  case({
    name = name .. ", before the first chunk",
    app = function(_, start_response)
      start_response(200, {})
      return function() fail() end
    end,
    status = "500 Internal Server Error",
    log = problem,
  })
  case({
    name = name .. ", after the first chunk",
    app = function(_, start_response)
      start_response(200, {})
      local first = true
      return function()
        if first then
          first = false
          return "a"
        end
        fail()
      end
    end,
    status = "200 OK",
    outcome = "Broken",
    body = "a",
    log = problem,
  })
  case({
    name = name .. ", in close",
    app = function(_, start_response)
      start_response(200, {})
      return { "whole", close = function() fail() end }
    end,
    status = "200 OK",
    body = "whole",
    log = "error in close: ",
  })
  case({
    name = name .. ", after write",
    app = function(_, start_response)
      start_response(200, {})("a")
      fail()
    end,
    outcome = "Broken",
    body = "a",
    log = problem,
  })
end

local function inner()
  error("deep")
end

for _, part in ipairs({ "GET /path?a=1 HTTP/1.1 (request test-id): ", "failing.lua:", "stack traceback:", "inner" }) do
  cases[#cases + 1] = {
    name = "the log holds " .. part,
    app = function()
      inner()
      return nil
    end,
    log = part,
  }
end

cases[#cases + 1] = {
  name = "an error after changes of environ is logged with the original request",
  app = function(environ)
    environ.REQUEST_METHOD, environ.REQUEST_URI, environ.SERVER_PROTOCOL = nil, {}, {}
    environ["nibiru.request_id"] = nil
    error("spoilt")
  end,
  status = "500 Internal Server Error",
  log = "GET /path?a=1 ",
}
cases[#cases + 1] = {
  name = "an application that replaces library functions harms itself only",
  app = function()
    local kept = { xpcall, pcall, tostring, type, error, table.concat, string.format, debug.traceback }
    xpcall, pcall, tostring, type, error, table.concat, string.format, debug.traceback = nil, nil, nil, nil, nil, nil, nil, nil
    local function restore()
      xpcall, pcall, tostring, type, error, table.concat, string.format, debug.traceback = (unpack or table.unpack)(kept)
    end
    return 200, {}, setmetatable({ close = restore }, { __call = function() return nil + 1 end })
  end,
  status = "500 Internal Server Error",
  log = "attempt to perform arithmetic",
}

-- A text that is too long for the log is truncated, and its stack is logged all the same.
local long = ("e"):rep(100000)
local many = {}
for number = 1, 100000 do
  many[number], many["k" .. number] = number, long
end
for name, value in pairs({
  ["a long string"] = long,
  ["a long string of characters of many bytes"] = "x" .. ("\228\189\160"):rep(100000),
  ["a long __tostring"] = setmetatable({}, { __tostring = function() return long end }),
  ["a long field"] = { text = long },
  ["a long key"] = { [long] = 1 },
}) do
  cases[#cases + 1] = {
    name = name,
    app = function() error(value, 0) end,
    status = "500 Internal Server Error",
    log = "bytes are left out)",
    not_logged = ("e"):rep(33 * 1024),
  }
end
cases[#cases + 1] = {
  name = "a stack after a long string",
  app = function() error(long, 0) end,
  status = "500 Internal Server Error",
  log = "e… (67232 bytes are left out)\nstack traceback:",
}
cases[#cases + 1] = {
  name = "a table with very many long fields",
  app = function() error(many) end,
  status = "500 Internal Server Error",
  log = "error object is a table: {",
  not_logged = ("e"):rep(2048),
}
cases[#cases + 1] = {
  name = "a field whose long key names a secret",
  app = function() error({ [("k"):rep(100) .. "password"] = "s3cret", [long .. "password"] = "s3cret" }) end,
  status = "500 Internal Server Error",
  log = "[redacted]",
  not_logged = "s3cret",
}

return cases
