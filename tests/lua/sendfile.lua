-- `wsgi.file_wrapper` with a proxy that sends the files of tests/ as /-/tests, except tests/apps; and the headers that
-- control the proxy, of which X-Sendfile and X-Accel-Limit-Rate are allowed here.

local function wrapping(status, headers, path)
  return function(environ)
    return status, headers, assert(environ["wsgi.file_wrapper"](path))
  end
end

local text = "Content-Type: text/plain; charset=utf-8|"
local order = "X-Accel-Redirect: /-/tests/lua/environ.lua|"

local function length_of(path)
  local file = assert(io.open(path, "rb"))
  local length = file:seek("end")
  file:close()
  return ("%d"):format(length)
end
local length = length_of("tests/lua/environ.lua")

--- Parts of the log lines: 32 in all, some of which the cases above have caused.
local function first_orders(count)
  local lines = {}
  for position = 1, count do
    lines[position] = "header X-Accel-" .. position .. " is left out"
  end
  return lines
end

return {
  { name = "a relative path", app = wrapping(200, {}, "environ.lua"), head = order .. text .. "|", chunks = {} },
  { name = "HEAD", method = "HEAD", app = wrapping(200, {}, "environ.lua"), head = order .. text .. "|", chunks = {} },
  { name = "steps are taken out", app = wrapping(200, {}, "./../lua//none/../environ.lua"), head = order .. text .. "|", chunks = {} },
  { name = "headers stay", app = wrapping(200, { { "Content-Type", "image/png" }, { "ETag", '"a"' } }, "environ.lua"),
    head = 'Content-Type: image/png|ETag: "a"|' .. order .. "|", chunks = {} },
  { name = "the right length is left to the proxy", app = wrapping(200, { ["Content-Length"] = length }, "environ.lua"),
    head = order .. text .. "|", chunks = {} },
  { name = "the longest directory counts", app = wrapping(200, {}, "../apps/site.lua"),
    head = "X-Accel-Redirect: /apps/site.lua|" .. text .. "|", chunks = {} },

  { name = "outside the map it is read", app = wrapping(200, {}, "../../rustfmt.toml"),
    head = text .. "Content-Length: " .. length_of("rustfmt.toml") .. "||" },
  { name = "a status of its own: the proxy would say 200", app = wrapping(404, {}, "environ.lua"),
    head = text .. "Content-Length: " .. length .. "||" },
  { name = "a part of the file", app = wrapping(206, { { "Content-Range", "bytes 0-2/*" }, { "Content-Length", "3" } }, "environ.lua"),
    status = "206 Partial Content", head = "Content-Range: bytes 0-2/*|" .. text .. "Content-Length: 3||", body = "-- " },
  { name = "another length", app = wrapping(200, { ["Content-Length"] = 3 }, "environ.lua"), body = "-- " },
  { name = "a coding: the proxy would not say so", app = wrapping(200, { ["Content-Encoding"] = "gzip" }, "environ.lua"),
    head = "Content-Encoding: gzip|" .. text .. "Content-Length: " .. length .. "||" },
  { name = "a coding, said again", app = wrapping(200, { ["Content-Encoding"] = "gzip" }, "environ.lua"),
    head = "Content-Encoding: gzip|" .. text .. "Content-Length: " .. length .. "||" },
  { name = "204", app = wrapping(204, {}, "environ.lua"), head = "|", chunks = {} },
  { name = "a file handle is read", head = text .. "Content-Length: " .. length .. "||", app = function(environ)
      return 200, {}, environ["wsgi.file_wrapper"](assert(io.open("tests/lua/environ.lua", "rb")))
    end },
  { name = "within another body it is read", head = text .. "|", app = function(environ)
      local body = environ["wsgi.file_wrapper"]("environ.lua")
      return 200, {}, function() return body() end
    end },
  { name = "after write it is read", app = function(environ, start_response)
      start_response(200, {})("a")
      return environ["wsgi.file_wrapper"]("environ.lua")
    end, head = text .. "|" },
  { name = "a path that is not there", app = function(environ)
      local body, problem = environ["wsgi.file_wrapper"]("none.lua")
      assert(body == nil)
      return 404, {}, problem:match("[^:]*$")
    end, status = "404 Not Found", body = " No such file or directory" },

  { name = "an order of the application's is left out, and said", app = function()
      return 200, { ["X-Accel-Redirect"] = "/any" }, "body"
    end, head = text .. "Content-Length: 4||", body = "body",
    log = "header X-Accel-Redirect is left out: it gives the proxy orders (--proxy-headers X-Accel-Redirect lets it pass)" },
  { name = "and said once", app = function()
      return 200, { { "x-accel-redirect", "/any" }, { "X-Accel-Redirect", "/other" } }, "body"
    end, head = text .. "Content-Length: 4||" },
  { name = "for each header", app = function() return 200, { { "X-Accel-Expires", 5 } }, "" end, log = "X-Accel-Expires is left out" },
  { name = "a family and not names", app = function()
      return 200, { { "X-SENDFILE2", "/etc/hostname 0-10" }, { "X-LIGHTTPD-KBytes-per-second", 1 }, { "X-Sent", "1" } }, ""
    end, head = "X-Sent: 1|" .. text .. "Content-Length: 0||", 
    log = { "header X-SENDFILE2 is left out", "header X-LIGHTTPD-KBytes-per-second is left out" } },
  { name = "a bad value is wrong even so", app = function() return 200, { ["X-Accel-Redirect"] = "/a\nX: y" }, "" end,
    status = "500 Internal Server Error", log = "header X-Accel-Redirect contains LF" },
  { name = "X-Accel-Buffering passes", app = function() return 200, { ["X-Accel-Buffering"] = "no" }, "" end,
    head = "X-Accel-Buffering: no|" .. text .. "Content-Length: 0||" },
  { name = "what is allowed passes, and there is no second order", app = wrapping(200, { { "X-Sendfile", "/any" } }, "environ.lua"),
    head = "X-Sendfile: /any|" .. text .. "Content-Length: " .. length .. "||" },
  { name = "an order that leaves the body alone goes with it", app = wrapping(200, { { "X-Accel-Limit-Rate", 9 } }, "environ.lua"),
    head = "X-Accel-Limit-Rate: 9|" .. order .. text .. "|", chunks = {} },
  { name = "an order that is written into the wrapped file is none", app = function(environ)
      local body = environ["wsgi.file_wrapper"]("environ.lua")
      body.order = "X-Evil: 1\r\n"
      return 200, {}, body
    end, head = order .. text .. "|", chunks = {} },
  { name = "any number of them, and few lines of the log", app = function()
      local headers = {}
      for position = 1, 1000 do
        headers[position] = { "X-Accel-" .. position, "1" }
      end
      return 200, headers, ""
    end, head = text .. "Content-Length: 0||", log = first_orders(32 - 4) },
}
