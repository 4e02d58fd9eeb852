---@meta
--- Annotations for lua-language-server: the API that nibiru offers to an application. Never loaded.

---@class nibiru.Environ
---@field REQUEST_METHOD string  may be missing for an authorizer, which has neither of the next two
---@field SCRIPT_NAME string
---@field PATH_INFO string
---@field QUERY_STRING string
---@field CONTENT_TYPE? string
---@field CONTENT_LENGTH? string
---@field SERVER_NAME string
---@field SERVER_PORT string
---@field SERVER_PROTOCOL string
---@field REMOTE_ADDR? string
---@field REQUEST_URI? string
---@field ["wsgi.version"] integer[]
---@field ["wsgi.url_scheme"] "http"|"https"
---@field ["wsgi.input"] nibiru.Input
---@field ["wsgi.errors"] nibiru.Errors
---@field ["wsgi.multithread"] false
---@field ["wsgi.multiprocess"] true
---@field ["wsgi.run_once"] boolean
---@field ["wsgi.file_wrapper"] nibiru.FileWrapper
---@field ["nibiru.request_id"] string
---@field ["nibiru.trace_id"]? string  32 hexadecimal digits, from a valid `traceparent`
---@field ["nibiru.promised_length"]? string  the original CONTENT_LENGTH, where the proxy keeps the body to itself
---@field ["nibiru.role"] "responder"|"authorizer"|"filter"
---@field ["nibiru.filter_data"]? nibiru.Input  the data for a filter to change
---@field ["nibiru.after_response"] fun(fn: fun()) runs `fn` once the client has the response
---@field [string] any  all other parameters of the proxy, such as `HTTP_*`

---@class nibiru.Input
local Input = {}

--- Reads all remaining bytes without a format, `""` if there are none; other formats than "a" return nil at the end.
---@param ... "a"|"l"|"L"|integer
---@return string? ...
function Input:read(...) end

---@param format? "a"|"l"|"L"|integer
---@return fun(): string?
function Input:lines(format) end

---@param whence? "set"|"cur"|"end"
---@param offset? integer
---@return integer? position
---@return string? problem
function Input:seek(whence, offset) end

---@param size? integer
---@return string?
function Input:readline(size) end

---@param hint? integer
---@return string[]
function Input:readlines(hint) end

---@return true
function Input:close() end

---@class nibiru.Errors
local Errors = {}

---@param ... string|number
---@return nibiru.Errors
function Errors:write(...) end

---@param lines string[]
function Errors:writelines(lines) end

---@return nibiru.Errors
function Errors:flush() end

---@alias nibiru.Status string|integer  "200 OK", "200" or 200
---@alias nibiru.Headers { [1]: string, [2]: string|number }[]|table<string, string|number|(string|number)[]>
---@alias nibiru.Body string|string[]|fun(): string?
--- A body that is sent in blocks and then closed; the proxy may send the file of a path. Returns `nil`, a message and the
--- system's error number if a path is no file that can be opened.
---@alias nibiru.FileWrapper fun(file: string|file*|nibiru.Readable, block_size?: integer): body: nibiru.Body?, problem: string?, number: integer?
---@alias nibiru.Readable { read: fun(self: any, count: integer): string?, close?: fun(self: any) }
---@alias nibiru.Write fun(chunk: string)
---@alias nibiru.StartResponse fun(status: nibiru.Status, headers: nibiru.Headers, exc_info?: any): nibiru.Write

--- Returns a body after a call of `start_response`, or status, headers and body without one.
---@alias nibiru.Application fun(environ: nibiru.Environ, start_response: nibiru.StartResponse): ...

---@class nibiru
---@field version string
---@field generation integer
---@field log nibiru.Log
local nibiru = {}

--- Registers `fn` to run in every worker after its fork: open databases and sockets here.
---@param fn fun(worker: integer)
function nibiru.on_worker_start(fn) end

--- Registers `fn` to run in every worker before an orderly stop.
---@param fn fun()
function nibiru.on_worker_stop(fn) end

--- Sleeps. During a request, the sleep ends at once when the client goes away.
---@param seconds number
---@return boolean here  false if the client has gone
function nibiru.sleep(seconds) end

---@class nibiru.Log
---@field debug fun(message: string, fields?: table<string, any>)
---@field info fun(message: string, fields?: table<string, any>)
---@field warn fun(message: string, fields?: table<string, any>)
---@field error fun(message: string, fields?: table<string, any>)

return nibiru
