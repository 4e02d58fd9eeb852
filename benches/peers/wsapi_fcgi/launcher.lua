-- The launcher for one application that WSAPI's manual describes: no Lua state for each script, no look at the file for
-- changes, as the generic launcher wsapi.fcgi has them.
--
--     lua5.1 launcher.lua FILE
require("wsapi.fastcgi").run(dofile(arg[1]))
