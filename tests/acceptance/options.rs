//! The values of settings, and the error for an invalid one, which names the value and its source.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory as _;
use nibiru::cli::Cli;

use crate::support::wire::Connection;
use crate::support::{App, Server, nibiru, output};

const APP: &str = "return function() return 200, {}, 'fine' end";

/// The message of a command that is refused with exit code 2.
#[track_caller]
fn refused(command: &mut Command) -> String {
    let output = output(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{command:?}: {said}");
    said
}

fn check(root: &Path) -> Command {
    let mut command = nibiru();
    command.current_dir(root).arg("check");
    command
}

#[test]
fn an_invalid_value_is_named_with_its_flag_variable_or_line() {
    let app = App::new(APP);
    let expected = "expected a number above zero, or off\n";
    for value in ["x", "0", "-1", "1.5", "4294967296x"] {
        for flag in [&["--max-requests", value][..], &[&format!("--max-requests={value}")]] {
            let said = refused(check(&app.root()).args(flag).arg("app"));
            assert_eq!(said, format!("nibiru: --max-requests {value}: {expected}"));
        }
        let said = refused(check(&app.root()).env("NIBIRU_MAX_REQUESTS", value).arg("app"));
        assert_eq!(said, format!("nibiru: NIBIRU_MAX_REQUESTS=\"{value}\" (environment): {expected}"));
        let entry = format!("max-requests = \"{value}\"");
        fs::write(app.root().join("shop.toml"), format!("app = \"app\"\n\n{entry} # a comment\n")).unwrap();
        let said = refused(check(&app.root()).args(["--config", "shop.toml"]));
        assert_eq!(said, format!("nibiru: shop.toml:3: {entry}: {expected}"));
    }
}

/// This check needs all settings together.
#[test]
fn a_header_timeout_that_would_close_every_connection_is_named_with_its_source() {
    let app = App::new(APP);
    let cause = "would close connections before their request is there; use 100ms or more\n";
    let said = refused(check(&app.root()).args(["--header-timeout", "0s", "app"]));
    assert_eq!(said, format!("nibiru: --header-timeout 0s: {cause}"));
    let said = refused(check(&app.root()).env("NIBIRU_HEADER_TIMEOUT", "0s").arg("app"));
    assert_eq!(said, format!("nibiru: NIBIRU_HEADER_TIMEOUT=\"0s\" (environment): {cause}"));
    fs::write(app.root().join("nibiru.toml"), "app = 'app'\nheader-timeout = '0s'\n").unwrap();
    assert_eq!(
        refused(&mut check(&app.root())),
        format!("nibiru: nibiru.toml:2: header-timeout = '0s': {cause}")
    );
    // The flag overrides the file, so the message names the flag, and a valid flag hides the file's error.
    let said = refused(check(&app.root()).args(["--header-timeout", "1ms"]));
    assert_eq!(said, format!("nibiru: --header-timeout 1ms: {cause}"));
    assert!(output(check(&app.root()).args(["--header-timeout", "1s"])).status.success());
}

#[test]
fn a_missing_directory_is_named_with_its_source() {
    let app = App::new(APP);
    fs::write(app.root().join("nibiru.toml"), "app = 'app'\nspool-dir = '/nonexistent'\n").unwrap();
    let said = refused(&mut check(&app.root()));
    assert_eq!(said, "nibiru: nibiru.toml:2: spool-dir = '/nonexistent': no such file or directory\n");
    let said = refused(check(&app.root()).args(["--root", "app.lua"]));
    assert_eq!(said, "nibiru: --root app.lua: not a directory\n");
}

/// Every variable of every command, including those of lists, switches and the application.
#[test]
fn an_empty_variable_is_refused_and_named() {
    let app = App::new(APP);
    let mut seen = 0;
    for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        for name in command.get_arguments().filter_map(|argument| argument.get_env()) {
            let mut empty = nibiru();
            empty.current_dir(app.root()).arg(command.get_name()).env(name, "");
            let name = name.to_str().unwrap();
            let cause = "set but empty; unset it, or give it a value";
            let message = format!("nibiru: {name}=\"\" (environment): {cause}\n");
            assert_eq!(refused(&mut empty), message, "{}", command.get_name());
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen} variables of three commands with every setting and four with two");
    let help = output(nibiru().args(["serve", "--help"]).env("NIBIRU_LISTEN", ""));
    assert!(help.status.success(), "an empty variable does not prevent the help");
}

/// The loaded application alone exceeds --max-memory. Regression: workers were replaced without a pause.
#[test]
fn a_worker_that_exceeds_max_memory_from_its_start_serves_and_is_replaced_after_growing_pauses() {
    let app =
        App::new("kept = ('x'):rep(16e6) return function() kept = kept .. '' return 200, {}, 'fine' end");
    let server = Server::builder()
        .application(app.root(), "app")
        .workers("1")
        .arguments(["--max-memory", "2M", "--preload", "off"])
        .start();
    let line =
        server.logged(&["too large before it has answered anything (--max-memory)", "replaced in 1 s"]);
    assert!(line.contains("pss=") && line.contains("max_memory=2097152"), "{line}");
    let mut connection = Connection::open(&server.socket());
    for _ in 0..100 {
        let response = connection.get("/");
        assert_eq!((response.status(), response.body()), (200, &b"fine"[..]), "{}", server.log());
    }
    server.logged(&["too large before it has answered anything", "replaced in 2 s"]);
    let log = server.log();
    let pauses: Vec<&str> =
        log.split("replaced in ").skip(1).filter_map(|rest| rest.split(" s").next()).collect();
    assert!(["1", "2", "4", "8", "16"].starts_with(&pauses), "{pauses:?}");
}

/// Without preloading each worker loads the application, and Lua itself reaches the limit.
#[test]
fn a_load_beyond_memory_limit_is_exit_code_3_and_names_the_limit() {
    let app = App::new("kept = {} for i = 1, 4000 do kept[i] = ('x'):rep(5e4) .. i end return print");
    let listen = format!("unix:{}", app.root().join("app.sock").display());
    let mut serve = nibiru();
    serve.args(["serve", "--preload", "off", "--memory-limit", "64M", "--listen", &listen, "--root"]);
    let output = output(serve.arg(app.root()).arg("app"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("--memory-limit"), "{said}");
    // With LuaJIT the process may reach its own limit, which may end it.
    assert!(cfg!(feature = "luajit") || said.contains("not enough memory (--memory-limit)"), "{said}");
}

/// With no worker and no place in the queue, every request would be refused.
#[test]
fn queue_0_is_refused_with_workers_from_0() {
    let app = App::new(APP);
    let said = refused(check(&app.root()).args(["--queue", "0", "--workers", "0-4", "app"]));
    let cause = "would refuse every request, since none may wait for the first worker (--workers)";
    assert_eq!(said, format!("nibiru: --queue 0: {cause}\n"));
    let server = Server::builder().workers("1").arguments(["--queue", "0"]).start();
    let control = server.control();
    let scaled = output(nibiru().args(["scale", "0-4", "--control", &control]));
    assert_eq!(scaled.status.code(), Some(1));
    let said = String::from_utf8_lossy(&scaled.stderr).into_owned();
    assert_eq!(said, "nibiru: no request could wait for the first worker (--queue 0)\n");
    assert_eq!(server.get("/hello").status(), 200);
    let said = refused(nibiru().args(["scale", "0"]));
    assert_eq!(said, "nibiru: N 0: expected a number such as 4, or a range such as 0-8\n");
}

#[test]
fn a_variable_that_is_not_utf_8_is_refused_and_named() {
    let app = App::new(APP);
    let said = refused(check(&app.root()).env("NIBIRU_QUEUE", OsStr::from_bytes(b"1\xff")).arg("app"));
    assert_eq!(said, "nibiru: NIBIRU_QUEUE=\"1\u{fffd}\" (environment): expected text in UTF-8\n");
}

#[test]
fn a_preloaded_application_beyond_memory_limit_is_exit_code_3_and_names_the_limit() {
    let app = App::new("kept = ('x'):rep(32e6) return function() return 200, {}, 'fine' end");
    let listen = format!("unix:{}", app.root().join("app.sock").display());
    let mut serve = nibiru();
    serve.current_dir(app.root()).args(["serve", "--memory-limit", "8M", "--listen", &listen, "app"]);
    let output = output(&mut serve);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    // The number depends on the Lua version: 31 MiB, or 40 with LuaJIT.
    for part in ["the application takes ", " MiB once it is loaded", "of the 8 MiB", "(--memory-limit)"] {
        assert!(said.contains(part), "{said}");
    }
}
