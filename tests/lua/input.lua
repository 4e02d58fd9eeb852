-- wsgi.input, each case once from memory and once from a spool file.

local function case(name, input, check)
  return {
    name = name,
    input = input,
    method = "POST",
    body = "ok",
    app = function(environ, start_response)
      check(environ["wsgi.input"])
      start_response(200, {})
      return "ok"
    end,
  }
end

local function equal(a, b)
  if a ~= b then
    error(("expected %q, got %q"):format(tostring(b), tostring(a)), 2)
  end
end

local function raises(part, fn, ...)
  local ok, problem = pcall(fn, ...)
  if ok or not tostring(problem):find(part, 1, true) then
    error(("expected an error with %q, got %s"):format(part, tostring(problem)), 2)
  end
end

local long = ("0123456789"):rep(20000) .. "\n" .. ("x"):rep(70000)

return {
  case("read gives the rest", "abc\ndef", function(input)
    equal(input:read(), "abc\ndef")
    equal(input:read(), "")
    equal(input:read("a"), "")
  end),
  case("read of an empty body", "", function(input)
    equal(input:read(), "")
    equal(input:read("a"), "")
    equal(input:read("*a"), "")
    equal(input:read(1), nil)
    equal(input:read(0), nil)
    equal(input:read("l"), nil)
    equal(input:read("L"), nil)
    equal(input:readline(), nil)
    equal(#input:readlines(), 0)
  end),
  case("read by bytes", "abcde", function(input)
    equal(input:read(2), "ab")
    equal(input:read(0), "")
    equal(input:read(2.0), "cd")
    equal(input:read(100), "e")
    equal(input:read(1), nil)
  end),
  case("read by lines", "one\ntwo\r\n\nlast", function(input)
    equal(input:read("l"), "one")
    equal(input:read("*L"), "two\r\n")
    equal(input:read("line"), "")
    equal(input:read("L"), "last")
    equal(input:read("L"), nil)
  end),
  case("several formats", "one\ntwo\nthree", function(input)
    local a, b, c = input:read("l", 2, "a")
    equal(a, "one")
    equal(b, "tw")
    equal(c, "o\nthree")
    equal(select("#", input:read("l", "l")), 1)
  end),
  case("bytes of every kind", "\0\r\n\255\26", function(input)
    equal(input:read(), "\0\r\n\255\26")
  end),
  case("lines", "a\nb\n", function(input)
    local got = {}
    for line in input:lines() do
      got[#got + 1] = line
    end
    equal(table.concat(got, "|"), "a|b")
    input:seek("set")
    got = {}
    for line in input:lines("L") do
      got[#got + 1] = line
    end
    equal(table.concat(got, "|"), "a\n|b\n")
    input:seek("set")
    got = {}
    for bytes in input:lines(3) do
      got[#got + 1] = bytes
    end
    equal(table.concat(got, "|"), "a\nb|\n")
  end),
  case("seek", "0123456789", function(input)
    equal(input:seek(), 0)
    input:read(4)
    equal(input:seek(), 4)
    equal(input:seek("cur", -2), 2)
    equal(input:read(1), "2")
    equal(input:seek("end"), 10)
    equal(input:read(1), nil)
    equal(input:seek("end", -1), 9)
    equal(input:read("a"), "9")
    equal(input:seek("set", 50), 50)
    equal(input:read(), "")
    equal(input:read("l"), nil)
    equal(input:seek("set"), 0)
    equal(input:read(), "0123456789")
    local position, problem = input:seek("set", -1)
    equal(position, nil)
    equal(problem, "Invalid argument")
  end),
  case("the names of PEP 3333", "one\ntwo\nthree", function(input)
    equal(input:readline(), "one\n")
    equal(input:readline(2), "tw")
    equal(input:readline(100), "o\n")
    equal(table.concat(input:readlines(), "|"), "three")
    input:seek("set")
    equal(#input:readlines(), 3)
    input:seek("set")
    equal(#input:readlines(5), 2)
  end),
  case("lines longer than any buffer", long, function(input)
    equal(#input:read("l"), 200000)
    equal(input:read("a"), ("x"):rep(70000))
    input:seek("set", 199998)
    equal(input:read("L"), "89\n")
  end),
  case("closed", "abc", function(input)
    equal(input:close(), true)
    raises("attempt to use a closed file", input.read, input)
    raises("attempt to use a closed file", input.seek, input)
  end),
  case("misuse", "abc", function(input)
    raises("bad argument #1 to 'read' (invalid format)", input.read, input, "x")
    raises("bad argument #2 to 'read' (invalid format)", input.read, input, "l", true)
    raises("invalid format", input.read, input, -1)
    raises("invalid format", input.read, input, 1.5)
    raises("bad argument #1 to 'seek' (invalid option)", input.seek, input, "start")
    raises("bad argument #2 to 'seek'", input.seek, input, "set", "x")
  end),
}
