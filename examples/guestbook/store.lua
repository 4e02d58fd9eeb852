--- The entries, in SQLite. Needs LuaSQL: `apt install lua-sql-sqlite3` or `luarocks --lua-version 5.4
-- install luasql-sqlite3`.

local luasql = require("luasql.sqlite3")

local M = {}

local connection

--- This worker's connection. Opened at the first use, and so after the fork: SQLite connections must not be
--- shared between processes.
local function database()
  if not connection then
    local path = os.getenv("GUESTBOOK_DB") or "guestbook.db"
    connection = assert(luasql.sqlite3():connect(path))
    -- Other workers write as well: wait for their lock, up to two seconds.
    assert(connection:execute("PRAGMA busy_timeout = 2000")):close()
    assert(connection:execute([[
      CREATE TABLE IF NOT EXISTS entry (
        id      INTEGER PRIMARY KEY,
        written TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
        name    TEXT NOT NULL,
        text    TEXT NOT NULL
      )]]))
  end
  return connection
end

local function quote(text)
  return "'" .. database():escape(text) .. "'"
end

--- Keeps an entry.
---@param name string
---@param text string
function M.add(name, text)
  -- SQL text ends at a NUL.
  name, text = name:gsub("\0", ""), text:gsub("\0", "")
  assert(database():execute(("INSERT INTO entry (name, text) VALUES (%s, %s)"):format(quote(name), quote(text))))
end

--- Up to `count` entries, the newest first.
---@param count integer
---@return { name: string, text: string, written: string }[]
function M.latest(count)
  local cursor = assert(database():execute(
    ("SELECT name, text, written FROM entry ORDER BY id DESC LIMIT %d"):format(count)))
  local entries = {}
  local entry = cursor:fetch({}, "a")
  while entry do
    entries[#entries + 1] = entry
    entry = cursor:fetch({}, "a")
  end
  cursor:close()
  return entries
end

return M
