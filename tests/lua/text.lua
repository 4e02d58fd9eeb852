-- nibiru.text: the validation of UTF-8, and the replacement of invalid bytes.

local text = require("nibiru.text")

local rows = {
  { "", nil, "" },
  { "abc\0", nil },
  { "schön 日本 😀", nil },
  { "\244\143\191\191", nil },
  { "a\255b", 2, "a\239\191\189b" },
  { "\192\128", 1, "\239\191\189\239\191\189" },
  { "x\237\160\128", 2, "x\239\191\189\239\191\189\239\191\189" },
  { "\244\144\128\128", 1, "\239\191\189\239\191\189\239\191\189\239\191\189" },
  { "ab\230\151", 3, "ab\239\191\189" },
  { "\195(", 1, "\239\191\189(" },
}

local cases = {}
for number, row in ipairs(rows) do
  cases[#cases + 1] = {
    name = "row " .. number,
    body = "ok",
    app = function()
      local valid, position = text.valid_utf8(row[1])
      assert(valid == (row[2] == nil) and position == row[2], tostring(position))
      assert(text.scrub(row[1]) == (row[3] or row[1]), "an unexpected result of scrub")
      return 200, {}, "ok"
    end,
  }
end

cases[#cases + 1] = {
  name = "misuse",
  body = "ok",
  app = function()
    for _, fn in pairs(text) do
      local ok, problem = pcall(fn, 5)
      assert(not ok and problem:find("s must be a string, got number", 1, true), problem)
    end
    return 200, {}, "ok"
  end,
}

return cases
