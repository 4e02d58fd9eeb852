-- The initial application of the tables of cases, which each case replaces by its own.
--
-- A table is a list of cases. A case has a `name` and an `app`, and any of:
--   method, variables, input   the request (GET without a body unless they say otherwise)
--   role, data                 "authorizer"; the data of a filter, which makes it one (a responder otherwise)
--   patience                   how many bytes of body the client takes before it goes away
--   takes_files                whether the gateway takes files as the rest of bodies
--   memory                     how many bytes the application may allocate, where the Lua can say
-- and what is expected of the response; whatever is left out may be anything, but for the last two:
--   status   the status line
--   head     the header lines, each ended by "|", and one more "|"
--   body     the whole body
--   chunks   the body as it was flushed
--   files    the parts of files in it that the gateway sends: "offset+length", separated by spaces
--   after    a function that runs when all is done, for assertions
--   not_logged  text that no log line may hold
--   outcome  "Complete" unless it says otherwise
--   log      part of the log line, or parts of each one; without it there must be none

return function()
  return 200, {}, ""
end
