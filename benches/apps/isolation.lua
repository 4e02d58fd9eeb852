-- Quick pages, and pages that keep a worker for a second: what `benches/isolation` measures.

local SECONDS = 1

local busy = {
  ["/sleep"] = function()
    os.execute("sleep " .. SECONDS)
  end,
  ["/burn"] = function()
    local finish = os.clock() + SECONDS
    while os.clock() < finish do end
  end,
}

local function application(environ)
  local work = busy[environ.PATH_INFO]
  if work then
    work()
  end
  return 200, { ["Content-Type"] = "text/plain" }, "Hello, World!\n"
end

return { application = application }
