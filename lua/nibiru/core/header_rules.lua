--- The rules of header names: headers that may come once, that are an error, that are left out, that give the proxy orders.
---
--- Called by `head` for each header whose name and value are well-formed.

local host, strings, warnings = ...

local find, match = string.find, string.match
local tonumber = tonumber
local proxy_order, lower, show, warn_once = host.proxy_order, strings.lower, strings.show, warnings.once

local M = {}

-- The names that a head records once it has them. A name with `true` has one value (RFC 9110, RFC 9111, RFC 6266) and may come
-- once only: of two types nginx 1.22 sends the last and Caddy both; of two targets both send both, and clients choose as they
-- like.
M.noted = {
  ["content-encoding"] = false,
  ["age"] = true,
  ["content-disposition"] = true,
  ["content-location"] = true,
  ["content-range"] = true,
  ["content-type"] = true,
  ["date"] = true,
  ["etag"] = true,
  ["expires"] = true,
  ["last-modified"] = true,
  ["location"] = true,
  ["retry-after"] = true,
  ["server"] = true,
}

--- The problem of a header that may come once, and came twice.
---@param name string
---@return string problem
function M.given_twice(name)
  return "header " .. name .. " is given twice"
end

local given_twice = M.given_twice

local function hop_by_hop(_, name)
  return "header " .. name .. " is hop-by-hop: it belongs to the connection, which the proxy owns"
end

--- The rule of a header that changes nothing behind a proxy, as frameworks with a server of their own and examples of event
--- streams send it: left out, and logged once by each worker. A value that would change how the body is read is an error.
---@param harmless table<string, true>?  values, in lower case; every one where there is no table
local function left_out(harmless)
  return function(head, name, value)
    if harmless and not harmless[lower(match(value, "^[ \t]*(.-)[ \t]*$"))] then
      return hop_by_hop(head, name) .. ", got " .. show(value)
    end
    warn_once(lower(name), "header " .. name .. ": " .. value .. " is left out: the connection is the proxy's")
    return nil, true
  end
end

-- The rules of single names. Each function returns a problem, or nil and whether the line is kept out of the block.
---@type table<string, fun(head: nibiru.Head, name: string, value: string): string?, boolean?>
M.rules = {
  -- PEP 3333, "Other HTTP Features": applications must not use hop-by-hop headers.
  ["connection"] = left_out({ ["close"] = true, ["keep-alive"] = true }),
  ["keep-alive"] = left_out(),
  ["proxy-authenticate"] = hop_by_hop,
  ["proxy-authorization"] = hop_by_hop,
  ["proxy-connection"] = hop_by_hop,
  ["te"] = hop_by_hop,
  ["trailer"] = hop_by_hop,
  ["trailers"] = hop_by_hop,
  -- A body in another coding (`gzip`) would reach the client undecoded.
  ["transfer-encoding"] = left_out({ ["chunked"] = true, ["identity"] = true }),
  ["upgrade"] = hop_by_hop,
  -- In CGI this header is the status, which the application gives apart from the headers.
  ["status"] = function()
    return "header Status is not allowed: the status is given apart from the headers"
  end,
  ["content-length"] = function(head, _, value)
    if head.length then
      return given_twice("Content-Length")
    end
    -- 15 digits stay exact in the doubles of Lua 5.1 and LuaJIT.
    if #value > 15 or not find(value, "^%d+$") then
      return "header Content-Length must be a number of bytes, got " .. show(value)
    end
    head.length, head.length_text = tonumber(value), value
    return nil, true
  end,
}

--- The rule of a header with orders for the proxy. Without `--proxy-headers` the header is left out and not refused, so that an
--- application that was written for another server goes on. The warning comes once, and not with every response.
---@return boolean left_out
function M.order(head, name, small)
  local _, guarded, replaces_body = proxy_order(small)
  if guarded then
    warn_once(small, "header " .. name .. " is left out: it gives the proxy orders (--proxy-headers " .. name .. " lets it pass)")
  elseif replaces_body then
    head.replaced = true
  end
  return guarded
end

return M
