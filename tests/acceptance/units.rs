//! The units of `deploy/systemd` under a systemd that is process 1.
//!
//! systemd-nspawn boots the machine's own `/usr`, read-only, on an empty file system in memory, with its own `/etc`,
//! `/run`, `/tmp`, `/dev`, `/proc` and network. Further namespaces surround it, because a systemd that sees the
//! machine's `/tmp` and `/run` cleans them up.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use rustix::fs::{FlockOperation, flock};

use crate::support::{Need, lacks, nibiru, output, repository};

/// The script that boots the machine, in separate namespaces. `$1` is the scratch directory, `$2` is nibiru.
const BOOT: &str = r#"
set -eu
mount --bind "$1" /mnt
mount --bind "$2" /mnt/nibiru
mount -t tmpfs none /tmp
mount -t tmpfs none /run
ip link set lo up
exec systemd-nspawn --quiet --register=no --keep-unit --directory=/ --volatile=yes \
    --bind=/mnt:/test --tmpfs=/usr/local --bind-ro=/mnt/nibiru:/usr/local/bin/nibiru \
    --bind-ro=/mnt/test.service:/etc/systemd/system/test.service \
    --boot systemd.unit=test.service systemd.firstboot=off
"#;

/// Runs the test's script when systemd is up, then ends the machine with the script's exit code.
const SERVICE: &str = "[Unit]\nAfter=basic.target\nSuccessAction=exit\nFailureAction=exit\n\
    [Service]\nType=oneshot\nExecStart=/bin/bash /test/script\nStandardOutput=file:/test/output\nStandardError=inherit\n";

/// The beginning of a script: it installs the units as `docs/how-to/systemd.md` says, and defines `application NAME
/// [SETTING…]`, `get`, `shell` and `say`.
const INSTALLED: &str = r#"
set -u
generators=/usr/local/lib/systemd/system-generators
mkdir -p /etc/nibiru /srv/app $generators
cp /test/units/nibiru@.service /test/units/nibiru@.socket /etc/systemd/system/
cp /test/units/nibiru-users $generators/
cp /test/app.lua /srv/app/
if [ -e /test/luajit.conf ]; then
    mkdir -p /etc/systemd/system/nibiru@.service.d
    cp /test/luajit.conf /etc/systemd/system/nibiru@.service.d/
fi
application() {
    name=$1; shift
    printf '%s\n' 'app = "app"' 'root = "/srv/app"' "$@" >"/etc/nibiru/$name.toml"
    echo "SECRET=of-$name" >"/etc/nibiru/$name.env"
    chmod 600 "/etc/nibiru/$name.env"
    systemctl daemon-reload
    systemctl start "nibiru@$name.socket" "nibiru@$name.service" || journalctl --no-pager -u "nibiru@$name"
}
# One request, by root.
get() { timeout 30 nibiru request --to "unix:/run/nibiru/$1.sock" GET "$2"; }
# A shell command, run by the application NAME in a worker.
shell() { timeout 30 nibiru request --to "unix:/run/nibiru/$1.sock" --data "$2" POST /shell; }
say() { printf '%s = %s\n' "$1" "$2"; }
"#;

/// A lock for the time that a machine runs. All machines share one tree of control groups, and each removes the groups
/// without processes: also a group that another machine has just created for a service of the same name, which then
/// fails to start.
fn lock_machines() -> fs::File {
    let tree = fs::File::open("/sys/fs/cgroup").unwrap();
    flock(&tree, FlockOperation::LockExclusive).unwrap();
    tree
}

/// The output of `script` on a machine with the units and `application` installed; `None` where no systemd can be
/// booted.
#[track_caller]
fn on_a_machine(application: &str, script: &str) -> Option<String> {
    if lacks(Need::Machine) {
        return None;
    }
    let scratch = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(scratch.path().join(name), text).unwrap();
    write("nibiru", "");
    write("boot", BOOT);
    write("test.service", SERVICE);
    write("app.lua", application);
    write("script", &format!("{INSTALLED}\n{script}"));
    if cfg!(feature = "luajit") {
        // LuaJIT needs this, as the how-to says.
        write("luajit.conf", "[Service]\nMemoryDenyWriteExecute=no\n");
    }
    let units = scratch.path().join("units");
    fs::create_dir(&units).unwrap();
    for entry in fs::read_dir(repository("deploy/systemd")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), units.join(entry.file_name())).unwrap();
    }
    // The machine's users differ from the test's.
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--pid",
        "--fork",
        "--uts",
        "--ipc",
        "--net",
        "--cgroup",
        "--propagation",
        "private",
    ]);
    command.args(["--mount-proc", "--kill-child", "sh"]).arg(scratch.path().join("boot"));
    command.arg(scratch.path()).arg(nibiru().get_program()).stdin(std::process::Stdio::null());
    let _alone = lock_machines();
    let console = output(&mut command);
    let said = fs::read_to_string(scratch.path().join("output")).unwrap_or_default();
    let booted = String::from_utf8_lossy(&console.stdout).into_owned();
    let problem = String::from_utf8_lossy(&console.stderr).into_owned();
    assert!(console.status.success(), "{:?}\n{booted}\n{problem}\n{said}", console.status);
    Some(said)
}

/// The value that a script printed with `say NAME`.
#[track_caller]
fn said<'a>(output: &'a str, name: &str) -> &'a str {
    let mut lines = output.lines().filter_map(|line| line.split_once(" = "));
    lines.find(|(key, _)| *key == name).unwrap_or_else(|| panic!("the script printed no {name}:\n{output}")).1
}

/// An application that runs the request body as a shell command, so that a test can act as a compromised site.
const SHELL: &str = r#"
return function(environ)
  local pipe = io.popen("exec 2>&1; (" .. environ["wsgi.input"]:read("a") .. "); echo exit $?")
  local text = pipe:read("*a")
  pipe:close()
  return 200, {}, text
end
"#;

/// Names from which systemd derives a user name, and names from which it does not.
const NAMES: [&str; 4] = ["shop", "blog", "shop.example.com", "a-name-that-is-longer-than-31-characters"];

#[test]
fn each_application_runs_as_its_own_dynamic_user() {
    let script =
        NAMES.map(|name| format!("application {name}; say {name} \"$(shell {name} 'id -u')\"\n")).concat();
    let Some(output) = on_a_machine(SHELL, &script) else { return };
    let users: std::collections::BTreeSet<u32> =
        NAMES.map(|name| said(&output, name).parse().unwrap_or_else(|_| panic!("{output}"))).into();
    assert_eq!(users.len(), NAMES.len(), "{output}");
    // The range from which systemd takes its dynamic users.
    assert!(users.iter().all(|user| (61184..=65519).contains(user)), "{output}");
}

#[test]
fn an_application_can_neither_read_nor_signal_nor_stop_another() {
    let intruders = ["shop", "shop.example.com", "a-name-that-is-longer-than-31-characters"];
    let script = r#"
for name in $INTRUDERS; do application $name 'workers = 1'; done
application blog 'workers = 1'
blog=$(systemctl show --property=MainPID --value nibiru@blog)
worker=$(pgrep --parent "$(pgrep --parent "$blog")")
shell blog 'echo mine > $STATE_DIRECTORY/file; echo mine > $LOGS_DIRECTORY/file; echo $SECRET' >/dev/null
for name in $INTRUDERS; do
    try() { say "$name: $1" "$(shell $name "$2" | tr '\n' ';')"; }
    try own 'echo $SECRET; kill -0 $PPID'
    try 'signal to the gateway' "kill -TERM $blog"
    try 'signal to the worker' "kill -TERM $worker"
    try 'environment' "cat /proc/$blog/environ"
    try 'environment of the worker' "cat /proc/$worker/environ"
    try 'memory' "cat /proc/$worker/maps"
    try stop 'nibiru stop --control unix:/run/nibiru/blog/control.sock'
    try 'stop by name' 'nibiru stop --control blog'
    try 'stop by file' 'nibiru stop --config /etc/nibiru/blog.toml'
    try request 'nibiru request --to unix:/run/nibiru/blog.sock GET /'
    try variables 'cat /etc/nibiru/blog.env'
    try state 'cat /var/lib/nibiru/blog/file'
    try 'private state' 'cat /var/lib/private/nibiru/blog/file'
    try log 'cat /var/log/nibiru/blog/file'
done
say alive "$(shell blog 'cat $STATE_DIRECTORY/file' | head -1)"
say before "$blog"
say after "$(systemctl show --property=MainPID --value nibiru@blog)"
"#;
    let script = format!("INTRUDERS='{}'\n{script}", intruders.join(" "));
    let Some(output) = on_a_machine(SHELL, &script) else { return };
    let refused = [
        ("signal to the gateway", "operation not permitted"),
        ("signal to the worker", "operation not permitted"),
        ("environment", "no such file"),
        ("environment of the worker", "no such file"),
        ("memory", "no such file"),
        ("stop", "permission denied"),
        ("stop by name", "permission denied"),
        ("stop by file", "cannot reach the server"),
        ("request", "permission denied"),
        ("variables", "permission denied"),
        ("state", "no such file"),
        ("private state", "no such file"),
        ("log", "no such file"),
    ];
    for name in intruders {
        assert_eq!(said(&output, &format!("{name}: own")), format!("of-{name};exit 0;"), "{output}");
        for (attempt, refusal) in refused {
            let value = said(&output, &format!("{name}: {attempt}")).to_lowercase();
            assert!(value.contains(refusal) && value.ends_with("exit 1;"), "{name}, {attempt}: {output}");
        }
    }
    assert_eq!(said(&output, "alive"), "mine", "{output}");
    assert_eq!(said(&output, "before"), said(&output, "after"), "{output}");
}

#[test]
fn a_service_whose_name_gives_no_user_name_does_not_start_without_the_generator() {
    let script = r#"
rm $generators/nibiru-users
application shop.example.com >/dev/null 2>&1
say state "$(systemctl show --property=Result --value nibiru@shop.example.com)"
say user "$(systemctl show --property=User --value nibiru@shop.example.com)"
say journal "$(journalctl --no-pager -o cat -u nibiru@shop.example.com | grep -m 1 Invalid)"
systemctl stop nibiru@shop.example.com.socket nibiru@shop.example.com
# The fix of the how-to.
cp /test/units/nibiru-users $generators/
systemctl daemon-reload
systemctl start nibiru@shop.example.com
say mended "$(shell shop.example.com 'echo $SECRET' | head -1)"
"#;
    let Some(output) = on_a_machine(SHELL, script) else { return };
    assert_eq!(said(&output, "state"), "resources", "{output}");
    assert_eq!(said(&output, "user"), "nibiru-shop.example.com", "{output}");
    let message = "nibiru@shop.example.com.service: Failed to run 'start' task: Invalid argument";
    assert_eq!(said(&output, "journal"), message, "{output}");
    assert_eq!(said(&output, "mended"), "of-shop.example.com", "{output}");
}

#[test]
fn systemctl_reload_fails_if_the_code_does_not_load() {
    let script = r#"
application shop
say before "$(get shop /)"
echo 'return function() return 200, {}, "new\n" end' >/srv/app/app.lua
systemctl reload nibiru@shop; say 'good code' $?
say good "$(get shop /)"
echo 'return {' >/srv/app/app.lua
systemctl reload nibiru@shop 2>/dev/null; say 'bad code' $?
say bad "$(get shop /)"
say active "$(systemctl is-active nibiru@shop)"
say journal "$(journalctl --no-pager -o cat -u nibiru@shop | grep -c 'unexpected symbol near')"
echo 'return function() return 200, {}, "mended\n" end' >/srv/app/app.lua
systemctl reload nibiru@shop; say 'mended code' $?
say mended "$(get shop /)"
"#;
    let application = "return function() return 200, {}, 'old\\n' end";
    let Some(output) = on_a_machine(application, script) else { return };
    assert_eq!(
        (said(&output, "before"), said(&output, "good"), said(&output, "bad")),
        ("old", "new", "new"),
        "{output}"
    );
    assert_eq!((said(&output, "good code"), said(&output, "mended code")), ("0", "0"), "{output}");
    assert_eq!(said(&output, "bad code"), "1", "systemctl reload: {output}");
    assert_eq!((said(&output, "active"), said(&output, "mended")), ("active", "mended"), "{output}");
    assert_ne!(said(&output, "journal"), "0", "{output}");
}

/// nibiru works without everything that the unit removes: system calls, devices, writable executable memory, the file
/// system.
#[test]
fn nibiru_works_within_the_services_restrictions() {
    let application = r#"
return function(environ)
  local path = environ.PATH_INFO
  if path == "/loop" then while true do end end
  if path == "/busy" then local from = os.clock() while os.clock() - from < 0.05 do end end
  if path == "/stuck" then os.execute("sleep 1000") end
  if path == "/memory" then return 200, {}, ("x"):rep(2 ^ 30) end
  if path == "/exit" then os.exit(1) end
  if path == "/body" then return 200, {}, tostring(#environ["wsgi.input"]:read("a")) .. "\n" end
  return 200, {}, "hello\n"
end
"#;
    let script = r#"
application shop 'request-timeout = "300ms"' 'kill-after = "300ms"' 'memory-limit = "128M"' 'workers = "1-3"' \
    'access-log = "/var/log/nibiru/shop/access.log"' 'spool-dir = "/var/lib/nibiru/shop"' 'exit-idle-time = "1h"' \
    'status-path = "/status"'
status() { timeout 30 nibiru request --include --to unix:/run/nibiru/shop.sock "$@" | head -1; }
say plain "$(status GET /)"
say loop "$(status GET /loop)"
say stuck "$(status GET /stuck)"
say memory "$(status GET /memory)"
say exit "$(status GET /exit)"
head -c 3000000 /dev/zero >/tmp/body
say body "$(timeout 30 nibiru request --to unix:/run/nibiru/shop.sock --data @/tmp/body POST /body)"
say scale "$(nibiru scale --control unix:/run/nibiru/shop/control.sock 3 >/dev/null; echo $?)"
say status "$(nibiru status --control shop --json >/dev/null; echo $?)"
systemctl kill --kill-whom=main --signal=USR1 nibiru@shop
systemctl reload nibiru@shop; say reload $?
systemctl restart nibiru@shop; say restart $?
say again "$(status GET /)"
say files "$(grep 'open files' "/proc/$(systemctl show --property=MainPID --value nibiru@shop)/limits" | tr -s ' ' | cut -d' ' -f4-5)"
gateway=$(systemctl show --property=MainPID --value nibiru@shop)
for client in 1 2 3 4 5 6; do
    (until [ -e /tmp/loaded ]; do status GET /busy >/dev/null; done) &
done
for _ in $(seq 400); do
    policy=$(cut -d' ' -f41 "/proc/$gateway/stat")
    [ "$policy" != 3 ] || break
    sleep 0.05
done
touch /tmp/loaded; wait
say policy "$policy"
systemctl stop nibiru@shop.socket nibiru@shop; say stop $?
say log "$(grep -v /busy /var/log/nibiru/shop/access.log | cut -d' ' -f6 | sort | tr '\n' ' ')"
say result "$(systemctl show --property=Result --value nibiru@shop)"
say denied "$(journalctl --no-pager -o cat -u nibiru@shop | grep -i -c 'not permitted')"
"#;
    let Some(output) = on_a_machine(application, script) else { return };
    let expected = [
        ("plain", "Status: 200 OK"),
        ("loop", "Status: 504 Gateway Timeout"),
        ("stuck", "Status: 504 Gateway Timeout"),
        ("memory", "Status: 500 Internal Server Error"),
        ("exit", "Status: 500 Internal Server Error"),
        ("body", "3000000"),
        ("scale", "0"),
        ("status", "0"),
        ("reload", "0"),
        ("restart", "0"),
        ("again", "Status: 200 OK"),
        // SCHED_BATCH, sched(7): under load.
        ("policy", "3"),
        ("log", "200 200 200 500 500 504 504"),
        ("stop", "0"),
        ("result", "success"),
        ("denied", "0"),
    ];
    for (name, value) in expected {
        assert_eq!(said(&output, name).trim_end(), value, "{name}: {output}");
    }
    let (soft, hard) = said(&output, "files").split_once(' ').unwrap();
    assert!(soft == hard && soft != "1024", "{output}");
}
