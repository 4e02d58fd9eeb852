//! Draining workers that do not exit: each has a deadline, and their number is limited.

use rustix::process::Signal;

use crate::support::{App, Server, children, niceness, output, process_group, runs, signal, wait_for};

/// The most processes of a pool of one: the worker, its successor, and four draining ones.
const MOST: usize = 6;

#[test]
fn workers_whose_stop_hook_never_returns_are_killed_with_their_children_and_stay_few() {
    let app = App::new(
        "local nibiru = require('nibiru')\n\
         nibiru.on_worker_stop(function() os.execute('sleep 600') end)\n\
         return function() return 200, {}, 'served' end",
    );
    let server = Server::builder().application(app.root(), "app").workers("1");
    let server = server.arguments(["--max-requests", "1"]).start();
    let zygote = server.zygote();
    let mut sleeping = Vec::new();
    for _ in 0..6 {
        assert_eq!(server.get_text("/"), "served");
        let workers = children(zygote);
        assert!(workers.len() <= MOST, "{} workers: {}", workers.len(), server.log());
        sleeping.extend(workers.into_iter().flat_map(children));
    }
    server.workers(1);
    assert!(!sleeping.is_empty());
    sleeping.retain(|child| runs(*child));
    assert!(sleeping.is_empty(), "children {sleeping:?} of killed workers still run");
    server.logged(&["WARN", "worker does not end", "worker="]);
}

#[test]
fn a_background_process_of_a_request_survives_the_replacement_of_its_worker() {
    let app = App::new(
        "return function(environ)\n\
         \x20 local pid = io.popen('sleep 600 </dev/null >/dev/null 2>&1 & echo $!'):read('*l')\n\
         \x20 return 200, {}, pid\n\
         end",
    );
    let server = Server::builder().application(app.root(), "app").workers("1");
    let server = server.arguments(["--max-requests", "1"]).start();
    let before = server.workers(1);
    let background: u32 = server.get_text("/").parse().unwrap();
    wait_for("the worker is replaced", || server.workers(1).is_disjoint(&before).then_some(()));
    assert!(runs(background), "{}", server.log());
    signal(background, Signal::KILL);
}

#[test]
fn a_signal_to_the_group_of_a_worker_reaches_neither_its_siblings_nor_the_zygote() {
    let app = App::new(
        "return function(environ)\n\
         \x20 if environ.PATH_INFO == '/group' then os.execute(\"trap 'kill 0' EXIT; exit 0\") end\n\
         \x20 return 200, {}, 'served'\n\
         end",
    );
    let server = Server::builder().application(app.root(), "app").workers("3").start();
    let (zygote, before) = (server.zygote(), server.workers(3));
    for worker in &before {
        assert_eq!(process_group(*worker), *worker, "each worker leads its own process group");
    }
    // The worker of the request may die of the signal or not, so its response is either.
    let _ = server.get("/group");
    assert_eq!(server.get_text("/"), "served");
    let after = server.workers(3);
    assert!(before.intersection(&after).count() >= 2, "{before:?}, then {after:?}: {}", server.log());
    assert_eq!(server.zygote(), zygote, "{}", server.log());
}

/// Without the permission `nice` starts its program all the same, and the workers have nothing to reset.
#[test]
fn workers_do_not_inherit_the_gateways_scheduling_priority() {
    let as_usual = ["nice", "-n", "-40"];
    let real_time = [["chrt", "--fifo", "1"], ["chrt", "--rr", "1"]];
    let allowed = real_time.into_iter().filter(|[program, policy, priority]| {
        output(std::process::Command::new(program).args([policy, priority, "true"])).status.success()
    });
    for wrapper in allowed.chain([as_usual]) {
        let server = Server::builder().workers("1").through(wrapper).start();
        let policy = |pid: u32| {
            let said = output(std::process::Command::new("chrt").arg("-p").arg(pid.to_string()));
            String::from_utf8(said.stdout).unwrap()
        };
        let (zygote, workers) = (server.zygote(), server.workers(1));
        assert_eq!(server.get("/hello").status(), 200);
        let expected = match wrapper[1] {
            "--fifo" => "SCHED_FIFO",
            "--rr" => "SCHED_RR",
            _ => "SCHED_OTHER",
        };
        assert!(policy(server.pid()).contains(expected), "{wrapper:?}: {}", policy(server.pid()));
        let expected = format!("{expected}|SCHED_RESET_ON_FORK");
        assert!(policy(zygote).contains(&expected), "{wrapper:?}: {}", policy(zygote));
        for worker in workers {
            assert!(policy(worker).contains("SCHED_OTHER\n"), "{wrapper:?}: {}", policy(worker));
            assert!(niceness(worker) >= 0, "the gateway has {}", niceness(server.pid()));
        }
    }
}
