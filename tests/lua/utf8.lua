-- The utf8 library as Lua 5.4 has it: built in, or nibiru's own under Lua 5.1, 5.2 and LuaJIT.
--
-- With Lua 5.4, nibiru's own library is compared with the built-in one on every row, so the expectations below cannot
-- differ from it.

local built_in = utf8
local root = debug.getinfo(1, "S").source:match("^@(.*)tests/lua/utf8%.lua$")
local own = assert(loadfile(root .. "lua/nibiru/utf8.lua"))()

local strings = {
  "", "abc", "äöü", "日本語", "a😀b", "\244\143\191\191", "\0\0", "é", "x\204\136",
  "\128", "a\255", "\195", "\195(", "\237\160\128", "\192\128", "\224\128\128", "\244\144\128\128",
  "\253\191\191\191\191\191", "\252\132\128\128\128\128", "\248\136\128\128\128", "\254\128", "ä\128", "\228\184",
}
local positions = { -100, -3, -2, -1, 0, 1, 2, 3, 4, 7, 100 }

--- The results of a call, as text; for an error, the part that is the same in all versions.
local function outcome(fn, ...)
  local results = { pcall(fn, ...) }
  for index = 1, 6 do
    results[index] = tostring(results[index]):gsub("^[^\n]-:%d+: ", "")
    results[index] = results[index]:gsub("%.0$", ""):gsub("'utf8%.", "'")
  end
  return table.concat(results, " ")
end

local function collect(library, s, lax)
  local parts = {}
  for position, code in library.codes(s, lax) do
    parts[#parts + 1] = ("%d:%d"):format(position, code)
  end
  return table.concat(parts, " ")
end

local cases = {}
local function case(name, check)
  cases[#cases + 1] = {
    name = name,
    body = "ok",
    app = function()
      check()
      return 200, {}, "ok"
    end,
  }
end

case("is a global and a module", function()
  assert(require("utf8") == utf8)
end)

case("agrees with Lua 5.4's own", function()
  if _VERSION ~= "Lua 5.4" then
    return
  end
  local function compare(name, ...)
    local expected, got = outcome(built_in[name], ...), outcome(own[name], ...)
    local arguments = {}
    for index = 1, select("#", ...) do
      local argument = (select(index, ...))
      arguments[index] = type(argument) == "string" and ("%q"):format(argument) or tostring(argument)
    end
    if expected ~= got then
      error(("%s(%s): expected %s, got %s"):format(name, table.concat(arguments, ", "), expected, got))
    end
  end
  for _, s in ipairs(strings) do
    for _, lax in ipairs({ false, true }) do
      compare("len", s, nil, nil, lax)
      local expected, got = outcome(collect, built_in, s, lax), outcome(collect, own, s, lax)
      assert(expected == got, ("codes(%q): expected %s, got %s"):format(s, expected, got))
      for _, i in ipairs(positions) do
        compare("codepoint", s, i, nil, lax)
        compare("len", s, i, nil, lax)
        for _, j in ipairs(positions) do
          compare("codepoint", s, i, j, lax)
          compare("len", s, i, j, lax)
        end
      end
    end
    for _, n in ipairs(positions) do
      compare("offset", s, n)
      for _, i in ipairs(positions) do
        compare("offset", s, n, i)
      end
    end
  end
  for _, code in ipairs({ 0, 1, 0x7F, 0x80, 0x7FF, 0x800, 0xD800, 0xFFFF, 0x10000, 0x10FFFF, 0x1FFFFF, 0x200000, 0x3FFFFFF, 0x4000000, 0x7FFFFFFF, -1, 0x80000000, 1.5, "65", "x" }) do
    compare("char", code)
    compare("char", 65, code)
  end
  compare("char")
  compare("len")
  compare("codepoint", {})
end)

for _, library in ipairs({ own, built_in }) do
  local which = library == own and "nibiru's" or "the global"
  case(which .. " char", function()
    assert(library.char() == "")
    assert(library.char(72, 228, 0x65E5, 0x1F600) == "Hä日😀")
  end)
  case(which .. " len", function()
    assert(library.len("日本語") == 3)
    local none, position = library.len("a\255")
    assert(not none and position == 2)
  end)
  case(which .. " codepoint", function()
    local a, b, c = library.codepoint("aä日", 1, -1)
    assert(a == 97 and b == 228 and c == 0x65E5)
  end)
  case(which .. " offset", function()
    assert((library.offset("aä日", 3)) == 4)
    assert((library.offset("aä日", -1)) == 4)
    assert((library.offset("aä日", 0, 3)) == 2)
    assert(library.offset("aä日", 9) == nil)
  end)
  case(which .. " codes", function()
    assert(collect(library, "aä日") == "1:97 2:228 4:26085")
  end)
  case(which .. " charpattern", function()
    local parts = {}
    for character in ("a\0ä日"):gmatch(library.charpattern) do
      parts[#parts + 1] = character
    end
    assert(table.concat(parts, "|") == "a|\0|ä|日")
  end)
end

return cases
