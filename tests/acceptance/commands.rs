//! Exit codes and messages of `serve`, `check` and `request`.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::support::{App, Need, Server, lacks, nibiru, output, repository};

fn check(root: &Path, name: &str) -> Output {
    output(nibiru().arg("check").arg("--root").arg(root).arg(name))
}

fn serve(root: &Path, name: &str) -> Output {
    let listen = format!("unix:{}", root.join("app.sock").display());
    output(nibiru().arg("serve").arg("--root").arg(root).arg("--listen").arg(listen).arg(name))
}

/// Expects that `check` and `serve` refuse `source` with exit code 3 and a message that contains all of `parts`.
#[track_caller]
fn does_not_load(source: &str, parts: &[&str]) {
    let app = App::new(source);
    for (command, output) in [("check", check(&app.root(), "app")), ("serve", serve(&app.root(), "app"))] {
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{command}: {message}");
        for part in parts {
            assert!(message.contains(part), "{command} does not say {part:?}: {message}");
        }
        assert!(!message.contains("panicked"), "{command}: {message}");
    }
}

#[test]
fn an_application_that_loads_passes_the_check() {
    let output = check(&repository("tests/apps"), "site:application");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_syntax_error_is_exit_code_3_and_names_file_and_line() {
    does_not_load("local M = {}\n\nfunction M.application(\n\nreturn M\n", &["app.lua:5:"]);
}

#[test]
fn an_error_while_loading_is_exit_code_3_and_names_file_and_line() {
    does_not_load("\n\nerror('no configuration')\n", &["app.lua:3:", "no configuration"]);
}

#[test]
fn a_missing_module_is_exit_code_3_and_names_it_and_the_file_that_requires_it() {
    does_not_load(
        "local M = {}\nlocal x = require('no.such.module')\nreturn M\n",
        &["no.such.module", "app.lua"],
    );
}

#[test]
fn a_module_without_a_callable_is_exit_code_3_and_names_the_missing_field() {
    does_not_load("return { version = 1 }\n", &["app", "application"]);
    does_not_load("return { application = 'a string' }\n", &["application"]);
}

#[test]
fn a_missing_application_is_exit_code_3_and_is_named() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("shop")).unwrap();
    fs::write(root.path().join("shop/app.lua"), "return print").unwrap();
    let in_root = root.path().canonicalize().unwrap().display().to_string();
    for (name, message) in [
        ("absent", format!("nibiru: module 'absent' not found: no absent.lua in {in_root} (--root)\n")),
        ("absent.lua", format!("nibiru: absent.lua: no such file in {in_root} (--root)\n")),
        (
            "shop/app",
            format!("nibiru: shop/app: no such file in {in_root} (--root); shop/app.lua is there\n"),
        ),
        ("shop/", "nibiru: shop/: a directory; for the app.lua in it, write --root shop/\n".to_owned()),
        (
            "shop",
            format!(
                "nibiru: module 'shop' not found: no shop.lua in {in_root} (--root); shop is a directory: for the app.lua \
                 in it, write --root shop\n"
            ),
        ),
    ] {
        for output in [check(root.path(), name), serve(root.path(), name)] {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(3), "{said}");
            let said =
                said.lines().filter(|line| !line.starts_with("20")).collect::<Vec<_>>().join("\n") + "\n";
            assert!(said.starts_with(&message), "{name}: {said}");
            assert!(!said.contains("stack traceback"), "{name}: {said}");
        }
    }
}

#[test]
fn an_application_that_exits_while_loading_is_exit_code_3() {
    does_not_load("os.exit(0)\n", &["app"]);
}

#[test]
fn wrong_usage_is_exit_code_2_with_a_message() {
    for arguments in
        [&["serve", "--no-such-flag"][..], &["serve", "--workers", "many", "app"], &["no-such-command"]]
    {
        let output = output(nibiru().args(arguments));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(!message.is_empty(), "{arguments:?}");
    }
}

/// The message of a command line that is refused with exit code 2.
#[track_caller]
fn refused(arguments: &[&str]) -> String {
    let output = output(nibiru().args(arguments));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert_eq!(output.stdout, b"", "{arguments:?}");
    message
}

#[test]
fn an_unknown_flag_gets_a_similar_flag_and_no_advice_to_pass_it_as_a_value() {
    for command in ["serve", "check", "dev", "request", "status", "scale"] {
        for flag in ["--no-such-flag", "--quiue-timeout", "-x"] {
            let message = refused(&[command, flag]);
            assert!(message.starts_with(&format!("nibiru: unexpected argument '{flag}'")), "{message}");
            assert!(
                !message.contains("as a value") && !message.contains("\n\n\n"),
                "{command} {flag}: {message}"
            );
        }
    }
    let message = refused(&["serve", "--quiue-timeout", "3s"]);
    assert!(message.contains("a similar argument exists: '--queue-timeout'"), "{message}");
    let message = refused(&["serv"]);
    assert!(message.contains("tip: ") && message.contains("'serve'"), "{message}");
}

#[test]
fn nibiru_without_arguments_shows_the_help_with_an_example() {
    let message = refused(&[]);
    assert!(message.starts_with("The FastCGI application server for Lua\n"), "{message}");
    for part in ["Usage: nibiru <COMMAND>", "Examples:\n  nibiru dev ", "nibiru serve "] {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
    let asked = output(nibiru().arg("--help"));
    assert_eq!((asked.status.code(), String::from_utf8(asked.stdout).unwrap()), (Some(0), message));
}

#[test]
fn dev_refuses_each_flag_that_only_serve_uses() {
    for (flag, value, instead) in [
        ("--listen", "unix:app.sock", "--http ADDR"),
        ("--socket-mode", "0660", "--http ADDR"),
        ("--socket-owner", "0", "--http ADDR"),
        ("--control", "off", "Ctrl-C"),
        ("--exit-idle-time", "1m", "Ctrl-C"),
        ("--allow-from", "10.0.0.7", "--http"),
        ("--drain-delay", "5s", "dev stops at once"),
        ("--sendfile", "x-sendfile", "no proxy"),
        ("--sendfile-map", "/a=/b", "no proxy"),
    ] {
        let message = refused(&["dev", flag, value, "app"]);
        assert!(message.starts_with(&format!("nibiru: {flag}: dev ")), "{message}");
        assert!(message.contains(instead), "{message}");
    }
    let help = String::from_utf8(output(nibiru().args(["dev", "--help"])).stdout).unwrap();
    assert!(help.contains("--workers") && !help.contains("--socket-mode"), "{help}");
}

#[test]
fn app_lua_in_the_working_directory_is_the_default_application() {
    let app = App::new("return function() return 200, {}, 'unnamed' end\n");
    fs::write(app.root().join("other.lua"), "return function() return 200, {}, 'named' end\n").unwrap();
    let checked = |arguments: &[&str], variable: Option<&str>| {
        let mut command = nibiru();
        command
            .arg("check")
            .args(arguments)
            .current_dir(app.root())
            .envs(variable.map(|app| ("NIBIRU_APP", app)));
        let output = output(&mut command);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().split(':').next().unwrap().to_owned()
    };
    assert_eq!(checked(&[], None), "app");
    assert_eq!(checked(&["--root", "."], None), "app");
    assert_eq!(checked(&["other"], None), "other");
    assert_eq!(checked(&[], Some("other")), "other");
    fs::write(app.root().join("nibiru.toml"), "app = 'other'").unwrap();
    assert_eq!(checked(&[], None), "other");

    let empty = tempfile::tempdir().unwrap();
    let in_root = empty.path().canonicalize().unwrap().display().to_string();
    for command in ["serve", "check", "dev"] {
        let output = output(nibiru().arg(command).current_dir(empty.path()));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{command}: {message}");
        let begin =
            format!("nibiru: no application: there is no app.lua in {in_root}; name one as module.path:name");
        assert!(message.starts_with(&begin), "{command}: {message}");
    }
}

#[test]
fn an_unknown_key_of_nibiru_toml_gets_a_similar_key() {
    let app = App::new("return print");
    fs::write(app.root().join("nibiru.toml"), "app = 'app'\nmax_bodi = '2M'\n").unwrap();
    let output = output(nibiru().arg("check").current_dir(app.root()));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert_eq!(message, "nibiru: nibiru.toml:2: max_bodi: unknown key; did you mean max-body?\n");
}

#[test]
fn the_http_address_of_dev_needs_a_port() {
    let message = refused(&["dev", "--http", "localhost", "app"]);
    assert!(message.contains("--http localhost: expected a port such as 8001"), "{message}");
}

#[test]
fn a_world_writable_socket_is_refused() {
    let app = App::new("return function() return 200, {}, '' end\n");
    let listen = format!("unix:{}", app.root().join("app.sock").display());
    let output = output(
        nibiru()
            .args(["serve", "--socket-mode", "0666", "--listen", &listen, "--root"])
            .arg(app.root())
            .arg("app"),
    );
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_socket_that_cannot_be_bound_is_exit_code_1_and_is_named() {
    let app = App::new("return function() return 200, {}, '' end\n");
    let output = output(
        nibiru()
            .args(["serve", "--listen", "unix:/nonexistent/directory/app.sock", "--root"])
            .arg(app.root())
            .arg("app"),
    );
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("/nonexistent/directory/app.sock"), "{message}");
}

#[test]
fn a_socket_of_another_running_server_is_refused() {
    let server = Server::start();
    let listen = format!("unix:{}", server.socket().display());
    let output = output(
        nibiru().args(["serve", "--listen", &listen, "--root"]).arg(repository("tests/apps")).arg("site"),
    );
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.get("/hello").status(), 200);
}

#[test]
fn request_prints_the_response_of_a_running_server() {
    let server = Server::start();
    let to = format!("unix:{}", server.socket().display());
    let output = output(nibiru().args(["request", "GET", "/hello?x=1", "--to", &to]));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("Hello, World!\n"), "{text}");
}

#[test]
fn request_without_a_server_is_exit_code_1_and_names_the_socket() {
    let output = output(nibiru().args(["request", "GET", "/", "--to", "unix:/nonexistent/app.sock"]));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("/nonexistent/app.sock"), "{message}");
}

/// A limit on memory that cannot be measured would have no effect.
#[test]
fn max_memory_is_refused_where_memory_cannot_be_measured() {
    if lacks(Need::Mounts) {
        return;
    }
    let mut unshare = std::process::Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", "mount -t tmpfs none /proc && exec \"$0\" \"$@\""]);
    unshare.arg(nibiru().get_program()).args(["serve", "--max-memory", "64M", "--root"]);
    let output = output(unshare.arg(repository("tests/apps")).arg("site"));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    let expected =
        "--max-memory 64M: cannot be watched without /proc/self/smaps_rollup: no such file or directory\n";
    assert!(message.ends_with(expected), "{message}");
}

#[test]
fn short_help_fits_a_screen() {
    for arguments in [&["-h"][..], &["serve", "-h"]] {
        let output = output(nibiru().args(arguments));
        assert_eq!(output.status.code(), Some(0));
        let lines = String::from_utf8_lossy(&output.stdout).lines().count();
        assert!((5..=60).contains(&lines), "{arguments:?} prints {lines} lines");
    }
}
