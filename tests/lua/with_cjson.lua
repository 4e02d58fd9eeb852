-- Debian's cjson, a C module built against a shared liblua.

return {
  {
    name = "decodes, encodes and raises",
    body = '{"a":[1,2]}',
    app = function()
      local cjson = require("cjson")
      assert(cjson.decode('{"x": "\\u00e4"}').x == "\195\164")
      assert(not pcall(cjson.decode, "{"))
      return 200, {}, cjson.encode({ a = { 1, 2 } })
    end,
  },
}
