-- What wrk sends, and what it reports: one line that begins with "result ". Started by wrk.py.
--
--     wrk … -- METHOD PATH BODY_BYTES OTHER_PATH EVERY [EXPECTED_FILE]
--
-- Every EVERYth request asks for OTHER_PATH (0: none does). With EXPECTED_FILE each response is compared with it,
-- status and body, which costs wrk more time than the request itself: not for what is measured.

local thread

function setup(started)
  thread = started
end

function init(arguments)
  local method, path, length, other, every, expected = unpack(arguments)
  wrk.method, wrk.path = method, path
  if tonumber(length) > 0 then
    wrk.body = ("x"):rep(tonumber(length))
  end
  wrong = 0
  if tonumber(every) > 0 then
    local usual, unusual, number = wrk.format(), wrk.format(nil, other), 0
    request = function()
      number = number + 1
      return number % every == 0 and unusual or usual
    end
  end
  if expected then
    local file = assert(io.open(expected, "rb"))
    local right = file:read("*a")
    file:close()
    response = function(status, _, body)
      if status ~= 200 or body ~= right then
        wrong = wrong + 1
      end
    end
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(("result requests=%d bytes=%d us=%d p50=%d p99=%d connect=%d read=%d write=%d status=%d timeout=%d wrong=%d\n"):format(
    summary.requests, summary.bytes, summary.duration, latency:percentile(50), latency:percentile(99), errors.connect,
    errors.read, errors.write, errors.status, errors.timeout, thread:get("wrong")))
end
