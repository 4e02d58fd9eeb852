//! Orphans that become the gateway's children are reaped, both in a gateway that is process 1 and in one that a script has
//! executed.

use rustix::process::Signal;

use crate::support::{App, Need, Server, children, lacks, signal, status_field, wait_for, zombies};

#[test]
fn as_process_1_it_reaps_orphans_and_still_learns_how_its_zygote_ended() {
    if lacks(Need::Root) {
        return;
    }
    // Each request leaves ten processes that outlive their parent, and says where they wait.
    let app = App::new(
        "return function(environ)\n\
         \x20 for _ = 1, 10 do os.execute('sleep 0.01 &') end\n\
         \x20 return 200, {}, (io.open('/proc/self/stat'):read('a'):match('%) %S (%d+)'))\n\
         end",
    );
    let namespace = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let server = Server::builder().application(app.root(), "app").workers("1").through(namespace).start();
    let gateway = children(server.pid())[0];
    let inner = status_field(gateway, "NSpid");
    assert!(inner.ends_with("\t1"), "it is process 1: {inner}");
    for _ in 0..3 {
        assert_eq!(server.get("/").status(), 200);
    }
    // The sleeps, and nothing else, are the gateway's children beside its zygote while they run.
    wait_for("all have ended and been reaped", || {
        (children(gateway).len() == 1 && zombies(gateway) == 0).then_some(())
    });

    let zygote = children(gateway)[0];
    signal(zygote, Signal::KILL);
    server.logged(&["zygote ended; launching another", "signal: 9"]);
    // Its worker is an orphan now.
    wait_for("the dead are reaped", || (zombies(gateway) == 0).then_some(()));
    let again = wait_for("there is a new zygote", || {
        children(gateway).into_iter().find(|pid| children(*pid).is_empty() && *pid != zygote)
    });
    assert_ne!(again, zygote);
    assert_eq!(server.get("/").status(), 200);
}

/// As an entry point of a container does that starts a helper and then executes nibiru; with an init of its own there, nibiru
/// is not process 1. nginx and php-fpm reap them as well, since they wait for any child.
#[test]
fn children_of_the_script_that_has_executed_it_are_reaped() {
    let server = Server::builder().after("{ sleep 0.01 & }").start();
    let gateway = server.pid();
    // It listens before it has loaded, and ends when that fails.
    server.logged(&["gateway ready"]);
    wait_for("the helper has ended and been reaped", || {
        (children(gateway).len() == 1 && zombies(gateway) == 0).then_some(())
    });
    let zygote = children(gateway)[0];
    signal(zygote, Signal::KILL);
    server.logged(&["zygote ended; launching another", "signal: 9"]);
    assert_eq!(server.get("/hello").status(), 200);
}
