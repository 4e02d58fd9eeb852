--- `wsgi.file_wrapper`: a body that reads a file in blocks, or that the proxy sends in the worker's place.
---
--- `environ` hands the wrapper to the application; `body` asks it about the file when the wrapper is the body. Never reads a
--- file whole.

local host = ...

local locate = host.locate
local error, format, setmetatable, sub = error, string.format, setmetatable, string.sub
local io_open, io_type, min, tostring, type = io.open, io.type, math.min, tostring, type
-- The methods of Lua's file handles: the application may replace those as well.
local stdout = io.stdout
local file_close, file_read, file_seek = stdout.close, stdout.read, stdout.seek

-- Bytes of a block, unless the application asks for another size: the size of a pipe's buffer.
local BLOCK_SIZE = 65536

-- Bytes of a file, at most: integers up to here are exact in every Lua. A longer "file" is none: the end of a directory is at
-- 2^63 - 1.
local MAX_LENGTH = 2 ^ 53

--- A wrapped file, as its application has it: a table without fields, to call and to close.
---@class nibiru.FileBody

---@class nibiru.FileState
---@field file any           a handle of Lua's, or any object with `read`
---@field block_size integer
---@field left integer?      bytes that may still be read
---@field order string?      the header line by which the proxy sends the file
---@field closed boolean

-- The state of each wrapped file. Kept apart from its table, where the application could write a line of the head.
---@type table<nibiru.FileBody, nibiru.FileState>
local states = setmetatable({}, { __mode = "k" })

--- Reads from a handle by Lua's own function, from another object by its method.
---@param file any
---@param count integer
---@return any chunk
---@return any problem
local function read(file, count)
  if io_type(file) then
    return file_read(file, count)
  end
  return file:read(count)
end

local methods = {}
local FileBody = { __index = methods, __metatable = false }

--- The next block; nil at the end.
function FileBody.__call(body)
  local state = states[body]
  local most = state.left and min(state.left, state.block_size) or state.block_size
  if most <= 0 then
    return nil
  end
  local chunk, problem = read(state.file, most)
  if chunk == nil and problem ~= nil then
    -- A failed read must not look like the end of the file.
    error("cannot read the wrapped file: " .. (type(problem) == "string" and problem or tostring(problem)), 0)
  elseif chunk == nil or chunk == "" then
    return nil
  elseif type(chunk) ~= "string" then
    error("the wrapped file must read strings, got " .. type(chunk), 0)
  end
  if state.left then
    -- Not every object heeds the size.
    chunk = #chunk > state.left and sub(chunk, 1, state.left) or chunk
    state.left = state.left - #chunk
  end
  return chunk
end

--- Closes the file, where it can be closed. The server calls it too, and may not be the first.
function methods:close()
  local state = states[self]
  if not state then
    error("bad argument #1 to 'close' (a wrapped file expected, got " .. type(self) .. ")", 2)
  elseif not state.closed then
    state.closed = true
    local file = state.file
    if io_type(file) then
      file_close(file)
    elseif file.close then
      file:close()
    end
  end
end

--- Bytes from the file's position to its end, where they are known: a pipe has none, and the kernel's own files claim 0 bytes
--- and can be read. Other objects than Lua's handles are not asked.
---@param file any
---@return integer?
local function remaining(file)
  if io_type(file) ~= "file" then
    return nil
  end
  local position = file_seek(file, "cur")
  local size = position and file_seek(file, "end")
  if not size then
    return nil
  end
  local ok, problem = file_seek(file, "set", position)
  if not ok then
    error("cannot seek in the wrapped file: " .. problem, 0)
  end
  local left = size - position
  return left > 0 and left <= MAX_LENGTH and left or nil
end

local M = {}

--- The application's `wsgi.file_wrapper`.
---@param file any  a file handle, an object with `read`, or a path
---@param block_size? integer
---@return nibiru.FileBody?
---@return string? problem  where there is no such file
---@return integer? number  the system's, of that problem
function M.wrapper(file, block_size)
  local kind = type(file)
  if kind ~= "string" and ((kind ~= "userdata" and kind ~= "table") or not (io_type(file) or file.read)) then
    error("file must be a file handle or a path, got " .. kind, 2)
  elseif block_size ~= nil and (type(block_size) ~= "number" or block_size < 1 or block_size % 1 ~= 0) then
    error("block_size must be a whole number of bytes", 2)
  end
  local order
  if kind == "string" then
    local path, found, number = locate(file)
    if not path then
      return nil, found, number
    end
    local problem
    file, problem, number = io_open(path, "rb")
    if not file then
      return nil, "cannot open " .. problem, number
    end
    order = found
  end
  local body = setmetatable({}, FileBody)
  states[body] = { file = file, block_size = block_size or BLOCK_SIZE, left = nil, order = order, closed = false }
  return body
end

--- Whether a table that the application returned is a wrapped file itself.
---@param body table
---@return boolean
function M.is_file(body)
  return states[body] ~= nil
end

--- Limits a wrapped file.
---@param body nibiru.FileBody
---@param left integer?  bytes that may still be read; nil: up to the file's end
function M.end_after(body, left)
  states[body].left = left
end

--- Has `count` bytes of a wrapped file, from its position on, sent by `send(request, handle, position, count)`. The position is after
--- them then. Returns false where that is not possible: `send` refuses, or the file is none of Lua's own handles.
---@param body nibiru.FileBody
---@param count integer
---@param send fun(request: nibiru.Request, handle: file*, position: integer, count: integer): boolean
---@param request nibiru.Request
---@return boolean sent
function M.hand_over(body, count, send, request)
  local file = states[body].file
  if io_type(file) ~= "file" then
    return false
  end
  -- Also writes out what the application has written to the handle.
  local position = file_seek(file, "cur")
  if not position or not send(request, file, position, count) then
    return false
  end
  file_seek(file, "set", position + count)
  return true
end

--- Prepares the head of a response for its file: gives the header line by which the proxy sends the file; or sets the head's
--- Content-Length, where the length is known.
---@param body nibiru.FileBody
---@param head nibiru.Head
---@return string? order
function M.prepare(body, head)
  local code = head.code
  if code == 204 or code == 205 or code == 304 then
    return nil
  end
  local state = states[body]
  -- nginx answers 200 and keeps neither a coding nor a part of the file that the application chose.
  if state.order and code == 200 and not head["content-encoding"] and not head.replaced
    and (not head.length or head.length == remaining(state.file)) then
    return state.order
  end
  local length = remaining(state.file)
  if not length then
    return nil
  elseif not head.length then
    head.length, head.length_text = length, format("%d", length)
  elseif head.length > length then
    error(format("the wrapped file has %d more bytes, but the Content-Length is ", length) .. head.length_text, 0)
  end
  return nil
end

return M
