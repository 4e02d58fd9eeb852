//! The log in a file (`--log`): its contents, a new file after USR1, and a file that cannot be written.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{App, Server, ServerBuilder, nibiru, output, wait_for};

/// An application that writes to the log in each possible way.
const TALKS: &str = "print('printed while loading')\n\
    return function(environ)\n\
    \x20 print('printed in ' .. environ.PATH_INFO)\n\
    \x20 io.stderr:write('on standard error\\n')\n\
    \x20 os.execute('echo from a program')\n\
    \x20 return 200, {}, 'fine'\n\
    end";

/// A server whose log is the file `log` in a scratch directory.
fn logging(application: &str) -> (ServerBuilder, App, TempDir, PathBuf) {
    let (app, directory) = (App::new(application), tempfile::tempdir().unwrap());
    let file = directory.path().join("log");
    let builder = Server::builder().application(app.root(), "app").workers("1");
    let builder = builder.arguments(["--log", file.to_str().unwrap()]);
    (builder, app, directory, file)
}

/// Waits until a line of `file` contains all of `parts`.
#[track_caller]
fn has_line(file: &Path, parts: &[&str]) {
    wait_for(&format!("{} has a line with {parts:?}", file.display()), || {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().any(|line| parts.iter().all(|part| line.contains(part))).then_some(())
    });
}

#[test]
fn with_log_every_line_is_in_the_file_and_none_on_standard_error() {
    let (builder, _app, _directory, file) = logging(TALKS);
    let mut server = builder.start();
    server.get_text("/here");
    for parts in [
        &["gateway ready"][..],
        &["zygote printed while loading"],
        &["worker printed in /here", "worker=1"],
        &["worker on standard error"],
        &["worker from a program"],
    ] {
        has_line(&file, parts);
    }
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777 & !0o640, 0);
    server.signal(Signal::TERM);
    server.wait();
    has_line(&file, &["gateway stopped"]);
    assert_eq!(server.log(), "");
}

#[test]
fn usr1_reopens_both_logs() {
    let (builder, _app, directory, file) = logging(TALKS);
    let access = directory.path().join("access");
    let server = builder.arguments(["--access-log", access.to_str().unwrap()]).start();
    server.get_text("/first");
    has_line(&file, &["printed in /first"]);
    has_line(&access, &["/first"]);
    let old = [&file, &access].map(|path| path.with_extension("1"));
    fs::rename(&file, &old[0]).unwrap();
    fs::rename(&access, &old[1]).unwrap();
    server.get_text("/second");
    has_line(&old[0], &["printed in /second"]);
    has_line(&old[1], &["/second"]);
    // The new files appear without another line, so the old ones can be compressed.
    server.signal(Signal::USR1);
    wait_for("both new files exist", || (file.exists() && access.exists()).then_some(()));
    has_line(&file, &["gateway log reopened"]);
    server.get_text("/third");
    has_line(&file, &["printed in /third"]);
    has_line(&access, &["/third"]);
    for path in old {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("/second") && !text.contains("/third"), "{text}");
    }
}

#[test]
fn a_log_that_cannot_be_opened_refuses_serve_and_check() {
    let app = App::new("return function() return 200, {}, 'fine' end");
    let socket = app.root().join("app.sock");
    let listen = format!("unix:{}", socket.display());
    for (path, cause) in [(app.root().join("missing/log"), "the directory"), (app.root(), "is a directory")] {
        for command in ["serve", "check"] {
            let mut nibiru = nibiru();
            nibiru.args([command, "--listen", &listen, "--root"]).arg(app.root());
            let failed = output(nibiru.arg("--log").arg(&path).arg("app"));
            let message = String::from_utf8_lossy(&failed.stderr).into_owned();
            let expected = format!("nibiru: cannot open the log {}: {cause}", path.display());
            assert!(failed.status.code() == Some(1) && message.contains(&expected), "{command}: {message}");
        }
    }
    // `check` does not create the log, which would belong to the user who runs the check.
    let log = app.root().join("log");
    let mut check = nibiru();
    check.args(["check", "--listen", &listen, "--root"]).arg(app.root()).arg("--log").arg(&log).arg("app");
    assert_eq!(output(&mut check).status.code(), Some(0));
    assert!(!log.exists());
    for wrong in ["", "off"] {
        let mut serve = nibiru();
        serve.args(["serve", "--listen", &listen, "--log", wrong, "--root"]).arg(app.root()).arg("app");
        assert_eq!(output(&mut serve).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn the_reason_of_a_failed_start_is_in_the_log_too() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let app = App::new("error('no database')");
    let mut serve = nibiru();
    serve.args(["serve", "--listen"]).arg(format!("unix:{}", directory.path().join("s").display()));
    let failed = output(serve.arg("--root").arg(app.root()).arg("--log").arg(&log).arg("app"));
    assert_eq!(failed.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("no database"), "{failed:?}");
    has_line(&log, &["ERROR", "no database"]);
}

#[test]
fn a_log_on_a_full_disk_fails_no_request_and_is_reported_once_on_standard_error() {
    let app = App::new(TALKS);
    let mut server = Server::builder()
        .application(app.root(), "app")
        .workers("1")
        .arguments(["--log", "/dev/full"])
        .start();
    for _ in 0..20 {
        server.get_text("/");
    }
    server.logged(&["nibiru: cannot write the log: no space left on device; lines are dropped"]);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(server.log().lines().count(), 1, "{}", server.log());
}

/// A write beyond RLIMIT_FSIZE raises SIGXFSZ, which kills a process by default.
#[test]
fn logs_at_the_file_size_limit_do_not_end_the_server() {
    let (builder, _app, directory, file) = logging(TALKS);
    let access = directory.path().join("access");
    let server = builder.arguments(["--access-log", access.to_str().unwrap()]).after("ulimit -f 4").start();
    let size = |path: &Path| fs::metadata(path).map_or(0, |data| data.len());
    // `ulimit -f` counts blocks of 512 bytes.
    wait_for("both files are full", || {
        server.get_text("/a-path-that-makes-the-lines-long-enough");
        (size(&file) == 2048 && size(&access) == 2048).then_some(())
    });
    for _ in 0..20 {
        server.get_text("/");
    }
}

#[test]
fn a_log_whose_directory_was_removed_is_reopened_when_the_directory_is_back() {
    let (app, directory) = (App::new(TALKS), tempfile::tempdir().unwrap());
    let inner = directory.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let file = inner.join("log");
    let server = Server::builder().application(app.root(), "app").workers("1");
    let server = server.arguments(["--log", file.to_str().unwrap()]).start();
    server.get_text("/");
    fs::remove_dir_all(&inner).unwrap();
    server.signal(Signal::USR1);
    server.get_text("/without");
    fs::create_dir(&inner).unwrap();
    // Without another signal, with the first line that comes a second later.
    wait_for("the log is reopened", || {
        server.get_text("/with");
        fs::read_to_string(&file).is_ok_and(|text| text.contains("printed in /with")).then_some(())
    });
}
