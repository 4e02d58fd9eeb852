//! Process state that a request changes and the next one must not see: the locale, and working directory and umask,
//! which C modules (`tests/apps/process`) can change.

use std::fs;

use tempfile::TempDir;

use crate::forks::module_path;
use crate::support::{App, Server, ServerBuilder};

/// A server with one worker and an application that answers with its working directory and its umask. `/chdir` and
/// `/umask` change them, `/later` changes them after the response. `start` is code that runs during the load.
fn server(app: &TempDir, start: &str) -> ServerBuilder {
    let text = format!(
        "local process\n\
         {start}\n\
         local function shown(command)\n\
         \x20 local pipe = io.popen(command)\n\
         \x20 local line = pipe:read('*l')\n\
         \x20 pipe:close()\n\
         \x20 return line\n\
         end\n\
         return function(environ)\n\
         \x20 local path = environ.PATH_INFO\n\
         \x20 if path == '/chdir' then process.chdir('/usr') end\n\
         \x20 if path == '/umask' then process.umask(7) end\n\
         \x20 if path == '/later' then\n\
         \x20   environ['nibiru.after_response'](function() process.chdir('/usr') process.umask(7) end)\n\
         \x20 end\n\
         \x20 return 200, {{}}, shown('readlink /proc/self/cwd') .. ' ' .. shown('umask')\n\
         end"
    );
    fs::write(app.path().join("app.lua"), text).unwrap();
    let cpath = format!("{};;", module_path().display());
    let server = Server::builder().application(app.path().to_owned(), "app").environment("LUA_CPATH", cpath);
    server.workers("1").after("umask 027")
}

/// Code that loads the module `process` during the load of the application.
const EAGER: &str = "process = require('process')";

#[test]
fn working_directory_and_umask_are_restored_after_a_request() {
    let app = tempfile::tempdir().unwrap();
    let root = app.path().canonicalize().unwrap().display().to_string();
    let server = server(&app, EAGER).start();
    let worker = server.workers(1);
    for _ in 0..3 {
        assert_eq!(server.get_text("/"), format!("{root} 0027"));
        assert_eq!(server.get_text("/chdir"), "/usr 0027");
        assert_eq!(server.get_text("/umask"), format!("{root} 0007"));
        assert_eq!(server.get_text("/later"), format!("{root} 0027"));
    }
    assert_eq!(server.get_text("/"), format!("{root} 0027"));
    server.logged(&["has changed the working directory to /usr"]);
    server.logged(&["has changed the umask to 0007; it is 0027 again"]);
    assert_eq!(server.log().matches("(each worker says so once)").count(), 2, "{}", server.log());
    assert_eq!(server.workers(1), worker);
}

/// Changes before the first request are the application's choice.
#[test]
fn working_directory_and_umask_from_load_and_start_hooks_are_kept() {
    for start in [
        "process = require('process') process.chdir('/etc') process.umask(63)",
        "process = require('process') require('nibiru').on_worker_start(function() process.chdir('/etc') process.umask(63) end)",
    ] {
        let app = tempfile::tempdir().unwrap();
        let server = server(&app, start).start();
        assert_eq!(server.get_text("/"), "/etc 0077");
        assert_eq!(server.get_text("/later"), "/etc 0077");
        assert_eq!(server.get_text("/"), "/etc 0077");
        assert_eq!(server.get_text("/umask"), "/etc 0007");
        assert_eq!(server.get_text("/chdir"), "/usr 0077");
    }
}

#[test]
fn changes_by_a_module_that_the_request_itself_loads_are_restored() {
    let app = tempfile::tempdir().unwrap();
    let lazy =
        "process = setmetatable({}, { __index = function(_, name) return require('process')[name] end })";
    let server = server(&app, lazy);
    let server = server.start();
    let before = server.get_text("/");
    assert_eq!(server.get_text("/chdir"), "/usr 0027");
    assert_eq!(server.get_text("/"), before);
}

/// A deployment may remove or rename the release that a worker serves.
#[test]
fn a_removed_or_renamed_root_is_restored_as_the_working_directory() {
    for renamed in [false, true] {
        let app = tempfile::tempdir().unwrap();
        let root = app.path().canonicalize().unwrap();
        let server = server(&app, EAGER).start();
        let worker = server.workers(1);
        assert_eq!(server.get_text("/"), format!("{} 0027", root.display()));
        let elsewhere = tempfile::tempdir().unwrap();
        let elsewhere = elsewhere.path().canonicalize().unwrap();
        let name = if renamed {
            fs::rename(&root, elsewhere.join("renamed")).unwrap();
            elsewhere.join("renamed").display().to_string()
        } else {
            app.close().unwrap();
            format!("{} (deleted)", root.display())
        };
        assert_eq!(server.get_text("/"), format!("{name} 0027"));
        assert!(
            !server.log().contains("working directory"),
            "no request has changed the working directory: {}",
            server.log()
        );
        for _ in 0..2 {
            assert_eq!(server.get_text("/chdir"), "/usr 0027");
            assert_eq!(server.get_text("/"), format!("{name} 0027"));
        }
        server.logged_between("has changed the working directory to /usr", 1..2);
        assert_eq!(server.workers(1), worker);
    }
}

#[test]
fn the_locale_of_the_load_is_restored_after_a_request() {
    let app = App::new(
        "if os.getenv('AT_START') then assert(os.setlocale('C.UTF-8', 'ctype')) end\n\
         local function change() assert(os.setlocale('C.UTF-8')) end\n\
         return function(environ)\n\
         \x20 if environ.PATH_INFO == '/change' then change() end\n\
         \x20 if environ.PATH_INFO == '/later' then environ['nibiru.after_response'](change) end\n\
         \x20 return 200, {}, os.setlocale(nil, 'ctype') .. ' ' .. os.setlocale(nil, 'numeric')\n\
         end",
    );
    let warning = "the application has changed the locale to C.UTF-8";
    for (at_start, locale) in [(false, "C C"), (true, "C.UTF-8 C")] {
        let server = Server::builder().application(app.root(), "app").workers("1");
        let server = if at_start { server.environment("AT_START", "1") } else { server }.start();
        for _ in 0..2 {
            assert_eq!(server.get_text("/"), locale);
            assert_eq!(server.get_text("/change"), "C.UTF-8 C.UTF-8");
            assert_eq!(server.get_text("/"), locale);
            assert_eq!(server.get_text("/later"), locale);
        }
        server.logged(&[warning, "again for the next request"]);
        assert_eq!(server.log().matches(warning).count(), 1, "{}", server.log());
    }
}
