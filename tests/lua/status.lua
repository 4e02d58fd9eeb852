-- Every form of a status, valid and invalid, by start_response and in the short form.

local rows = {
  { "200 OK", "200 OK" },
  { "200", "200 OK" },
  { 200, "200 OK" },
  { 200.0, "200 OK" },
  { "404 Nothing Here", "404 Nothing Here" },
  { "404", "404 Not Found" },
  { 404, "404 Not Found" },
  { "200 ", "200 OK" },
  { "299", "299 Unknown" },
  { 599, "599 Unknown" },
  { "200 Schön", "200 Schön" },
  { 199, nil, "status must be" },
  { 600, nil, "status must be" },
  { 101, nil, "got 101" },
  { 200.5, nil, "got 200.5" },
  { 0 / 0, nil, "status must be" },
  { math.huge, nil, "status must be" },
  { "OK", nil, 'got "OK"' },
  { "", nil, 'got ""' },
  { "20", nil, 'got "20"' },
  { "2000", nil, 'got "2000"' },
  { "200OK", nil, 'got "200OK"' },
  { " 200 OK", nil, 'got " 200 OK"' },
  { "200 OK\r\nX: y", nil, "contains CR at byte 3" },
  { "200 OK\n", nil, "contains LF at byte 3" },
  { "200 O\0K", nil, "contains NUL at byte 2" },
  { true, nil, "got true" },
  { {}, nil, "got table" },
}

local cases = {}
for position, row in ipairs(rows) do
  local given, status, problem = row[1], row[2], row[3]
  cases[#cases + 1] = {
    name = "start_response, row " .. position,
    app = function(_, start_response)
      start_response(given, {})
      return "x"
    end,
    status = status or "500 Internal Server Error",
    body = status and "x" or "Internal Server Error\n",
    log = problem,
  }
  if type(given) == "string" or type(given) == "number" then
    cases[#cases + 1] = {
      name = "short form, row " .. position,
      app = function()
        return given, {}, "x"
      end,
      status = status or "500 Internal Server Error",
      log = problem,
    }
  end
end

cases[#cases + 1] = {
  name = "no status at all",
  app = function(_, start_response)
    start_response(nil, {})
    return "x"
  end,
  status = "500 Internal Server Error",
  log = "status must be",
}

return cases
