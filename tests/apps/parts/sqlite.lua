-- Debian's lua-sql-sqlite3: writes and reads a table in memory.
local luasql = require("luasql.sqlite3")

return function(_, start_response)
  local database = assert(luasql.sqlite3())
  local connection = assert(database:connect(":memory:"))
  assert(connection:execute("CREATE TABLE guest (name TEXT)"))
  assert(connection:execute("INSERT INTO guest VALUES ('Enki'), ('Ninhursag')"))
  local cursor = assert(connection:execute("SELECT count(*), max(name) FROM guest"))
  local count, last = cursor:fetch()
  cursor:close()
  connection:close()
  database:close()
  start_response("200 OK", { { "Content-Type", "text/plain" } })
  return { ("%d %s\n"):format(count, last) }
end
