-- wsgi.errors, nibiru.log and after_response: their log lines, in order.

local nibiru = require("nibiru")

local function case(name, run, log)
  return {
    name = name,
    body = "ok",
    log = log,
    app = function(environ, start_response)
      run(environ["wsgi.errors"], environ)
      start_response(200, {})
      return "ok"
    end,
  }
end

local function raises(part, fn, ...)
  local ok, problem = pcall(fn, ...)
  assert(not ok and tostring(problem):find(part, 1, true), tostring(problem))
end

return {
  case("a line", function(errors) errors:write("a line\n") end, { "a line" }),
  case("parts of a line", function(errors) errors:write("a ", 1):write(" line\nmore\n") end, { "a 1 line", "more" }),
  case("an incomplete line is written at the end of the request", function(errors) errors:write("half") end, { "half" }),
  case("flush", function(errors) errors:write("a"):flush():write("b\n") end, { "a", "b" }),
  case("writelines", function(errors) errors:writelines({ "a\n", "b\n" }) end, { "a", "b" }),
  case("misuse of wsgi.errors", function(errors)
    raises("string expected", errors.write, errors, {})
    raises("lines must be an array", errors.writelines, errors, "x")
    raises("lines[1] must be a string", errors.writelines, errors, { 1 })
  end),
  case("log", function()
    nibiru.log.debug("d")
    nibiru.log.info("i", {})
    nibiru.log.warn("w", { b = 2, a = "one two" })
    nibiru.log.error("e", { line = "x\ny", empty = "" })
  end, { "d", "i", 'w {"a":"one two","b":2}', 'e {"empty":"","line":"x\\ny"}' }),
  case("fields keep their types", function()
    local shown = setmetatable({}, {
      __tostring = function()
        return "shown"
      end,
    })
    nibiru.log.info("l", { int = 1, float = 1.5, yes = true, no = false, inf = 1 / 0, shown = shown, [3] = "\27\255" })
  end, { [[l {"3":"\\x1B\\xFF","float":1.5,"inf":"inf","int":1,"no":false,"shown":"shown","yes":true}]] }),
  -- `warn` exists from Lua 5.4 on. It is off by default, as in the program `lua`.
  case("warn", function()
    if warn then
      warn("lost")
      warn("@on")
      warn("seen ", "in ", "pieces")
      warn("@", "on")
      warn("@unknown")
      warn("@off")
      warn("lost")
      warn("lost", "@on")
      warn("lost")
      warn("@on")
      warn("seen again")
      warn("@off")
    end
  end, warn and { "seen in pieces", "@on", "seen again" } or {}),
  case("misuse of log", function()
    raises("message must be a string, got table", nibiru.log.info, {})
    raises("fields must be a table, got number", nibiru.log.info, "x", 1)
  end),
  case("misuse of the hooks", function()
    raises("fn must be a function, got nil", nibiru.on_worker_start)
    raises("fn must be a function, got string", nibiru.on_worker_stop, "x")
    raises("this worker has started", nibiru.on_worker_start, print)
  end),
  case("after_response functions run in order, also those that they register", function(_, environ)
    local after = environ["nibiru.after_response"]
    after(function()
      nibiru.log.info("one")
      after(function()
        nibiru.log.info("three")
      end)
    end)
    after(function()
      nibiru.log.info("two")
    end)
  end, { "one", "two", "three" }),
  case("an error in after_response is logged, the others run", function(_, environ)
    environ["nibiru.after_response"](function()
      error("too late")
    end)
    environ["nibiru.after_response"](function()
      nibiru.log.info("still")
    end)
  end, { "error in after_response: ", "still" }),
  case("misuse of after_response", function(_, environ)
    raises("fn must be a function, got nil", environ["nibiru.after_response"])
  end),
}
