-- Repeated calls of start_response, with and without exc_info, before and after the head.

local nibiru_error = "something failed"

return {
  { name = "twice without exc_info", status = "500 Internal Server Error", log = "start_response was already called",
    app = function(_, start_response)
      start_response(200, {})
      start_response(500, {})
      return ""
    end },
  { name = "twice with exc_info", status = "503 Sorry", head = "Content-Type: text/html|Content-Length: 5||", body = "sorry",
    app = function(_, start_response)
      start_response(200, { { "X-A", "1" } })
      start_response("503 Sorry", { { "Content-Type", "text/html" } }, nibiru_error)
      return "sorry"
    end },
  { name = "exc_info on the first call", status = "503 Service Unavailable",
    app = function(_, start_response)
      start_response(503, {}, nibiru_error)
      return ""
    end },
  { name = "with exc_info after the head", outcome = "Broken", body = "a", log = nibiru_error,
    app = function(_, start_response)
      start_response(200, {})("a")
      start_response(500, {}, nibiru_error)
      return ""
    end },
  { name = "from an iterator, after its first chunk", outcome = "Broken", body = "a", log = "already called",
    app = function(_, start_response)
      start_response(200, {})
      local first = true
      return function()
        if first then
          first = false
          return "a"
        end
        start_response(500, {})
      end
    end },
  { name = "with exc_info from an iterator, before its first chunk", status = "500 Oh", body = "oh",
    app = function(_, start_response)
      start_response(200, {})
      return coroutine.wrap(function()
        coroutine.yield("")
        start_response("500 Oh", {}, nibiru_error)
        coroutine.yield("oh")
      end)
    end },
  { name = "a first call that failed does not count", status = "200 OK",
    app = function(_, start_response)
      assert(not pcall(start_response, 99, {}))
      start_response(200, {})
      return ""
    end },
  { name = "returns write", app = function(_, start_response)
      assert(type(start_response(200, {})) == "function")
      return ""
    end },
  { name = "short form after start_response is a body", status = "500 Internal Server Error", log = "got a number",
    app = function(_, start_response)
      start_response(200, {})
      return 200, {}, "x"
    end },
}
