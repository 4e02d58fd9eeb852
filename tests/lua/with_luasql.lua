-- Debian's luasql.sqlite3, a C module with userdata, finalisers and an external library.

return {
  {
    name = "makes a table and reads it",
    body = "héllo",
    app = function()
      local driver = assert(require("luasql.sqlite3").sqlite3())
      local connection = assert(driver:connect(":memory:"))
      assert(connection:execute("create table t (x text)"))
      assert(connection:execute("insert into t values ('héllo')"))
      local cursor = assert(connection:execute("select x from t"))
      local x = cursor:fetch()
      cursor:close()
      connection:close()
      driver:close()
      return 200, {}, x
    end,
  },
}
