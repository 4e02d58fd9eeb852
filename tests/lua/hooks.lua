-- Registers hooks that log, so that the test can check their order.

local nibiru = require("nibiru")

nibiru.on_worker_start(function(worker)
  nibiru.log.info("started", { worker = worker })
  nibiru.log.debug("generation=" .. nibiru.generation)
end)

nibiru.on_worker_start(function()
  if fail_start then
    error("no database")
  end
end)

nibiru.on_worker_stop(function()
  error("stop failed")
end)

nibiru.on_worker_stop(function()
  nibiru.log.warn("stopped")
end)

local function application()
  return 200, {}, ""
end

return { application = application, failing = application }
