//! Orphans that become the gateway's children are reaped, both by a gateway that is process 1 and by one that a script
//! has executed.

use rustix::process::Signal;

use crate::support::{App, Need, Server, children, lacks, signal, status_field, wait_for, zombies};

#[test]
fn as_process_1_the_gateway_reaps_orphans_and_reports_its_zygotes_exit_status() {
    if lacks(Need::Root) {
        return;
    }
    // Each request leaves ten processes that outlive their parent, and answers with its worker's parent.
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
    assert!(inner.ends_with("\t1"), "the gateway is process 1: {inner}");
    for _ in 0..3 {
        assert_eq!(server.get("/").status(), 200);
    }
    // The orphans are the gateway's only children besides its zygote.
    wait_for("all orphans are reaped", || {
        (children(gateway).len() == 1 && zombies(gateway) == 0).then_some(())
    });

    let zygote = children(gateway)[0];
    signal(zygote, Signal::KILL);
    server.logged(&["zygote ended; launching another", "signal: 9"]);
    // The worker of the dead zygote is an orphan now.
    wait_for("the dead processes are reaped", || (zombies(gateway) == 0).then_some(()));
    let again = wait_for("the zygote is replaced", || {
        children(gateway).into_iter().find(|pid| children(*pid).is_empty() && *pid != zygote)
    });
    assert_ne!(again, zygote);
    assert_eq!(server.get("/").status(), 200);
}

/// For example, an entry point of a container that starts a helper and then executes nibiru. With an init in the
/// container, nibiru is not process 1. nginx and php-fpm reap such children as well, since they wait for any child.
#[test]
fn children_of_the_script_that_executed_nibiru_are_reaped() {
    let server = Server::builder().after("{ sleep 0.01 & }").start();
    let gateway = server.pid();
    // The server listens before it has loaded the application, and ends if the load fails.
    server.logged(&["gateway ready"]);
    wait_for("the helper is reaped", || {
        (children(gateway).len() == 1 && zombies(gateway) == 0).then_some(())
    });
    let zygote = children(gateway)[0];
    signal(zygote, Signal::KILL);
    server.logged(&["zygote ended; launching another", "signal: 9"]);
    assert_eq!(server.get("/hello").status(), 200);
}
