//! `os.exit`. [`Output::exit`] never returns, so the thread that called it is parked for good, and a test looks at the events
//! before.

use std::sync::mpsc;
use std::thread;

use super::*;

enum Event {
    Out(String),
    Log(String),
    Exit(Option<Outcome>, i32),
}

struct Reporter(mpsc::Sender<Event>);

impl Output for Reporter {
    fn head(&mut self, head: &[u8]) -> Result<(), ClientGone> {
        self.body(head)
    }
    fn body(&mut self, bytes: &[u8]) -> Result<(), ClientGone> {
        self.0.send(Event::Out(String::from_utf8_lossy(bytes).into_owned())).map_err(|_| ClientGone)
    }
    fn takes_file(&self, _: u64) -> bool {
        false
    }
    fn file(&mut self, _: OwnedFd, _: u64, _: u64) -> Result<(), ClientGone> {
        unreachable!("no file is taken");
    }
    fn flush(&mut self) -> Result<(), ClientGone> {
        Ok(())
    }
    fn wait(&mut self, _: Duration) -> Result<(), ClientGone> {
        Ok(())
    }
    fn log(&mut self, _: Level, message: &[u8], _: &str) {
        let _ = self.0.send(Event::Log(String::from_utf8_lossy(message).into_owned()));
    }
    fn stack(&mut self, _: Interrupt, _: &[u8]) {
        unreachable!("nothing interrupts");
    }
    fn before_program(&mut self) {}
    fn exit(&mut self, outcome: Option<Outcome>, code: i32) -> ! {
        let _ = self.0.send(Event::Exit(outcome, code));
        loop {
            thread::park();
        }
    }
}

/// Serves one request with a callable of `exits.lua`: what went out, the log, how it exited.
fn run(name: &'static str) -> (String, Vec<String>, Option<Outcome>, i32) {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut state = State::new(&settings(&format!("exits.lua:{name}"))).unwrap();
        state.load().unwrap();
        state.start_worker(1, 1, Box::new(Reporter(sender))).unwrap();
        serve(&mut state, "GET", Body::Memory(vec![]));
    });
    let (mut out, mut log) = (String::new(), Vec::new());
    loop {
        match receiver.recv_timeout(Duration::from_secs(20)) {
            Ok(Event::Out(text)) => out.push_str(&text),
            Ok(Event::Log(text)) => log.push(text),
            Ok(Event::Exit(outcome, code)) => return (out, log, outcome, code),
            Err(error) => panic!("{name}: os.exit came back: {error}; sent {out:?}, logged {log:?}"),
        }
    }
}

#[test]
fn before_the_head_the_client_gets_a_500_wherever_the_call_is() {
    for (name, code) in [
        ("plain", 3),
        ("protected", 0),
        ("in_coroutine", 1),
        ("in_wrap", 7),
        ("in_iterator", 9),
        ("in_handler", 2),
    ] {
        let (out, log, outcome, got) = run(name);
        assert!(out.starts_with("Status: 500 Internal Server Error\r\n"), "{name}: {out:?}");
        assert!(out.ends_with("\r\n\r\nInternal Server Error\n"), "{name}: {out:?}");
        assert_eq!((outcome, got), (Some(Outcome::Complete), code), "{name}");
        assert_eq!(log.iter().filter(|line| line.contains("os.exit(")).count(), 1, "{name}: {log:?}");
        assert!(log[0].contains("GET /path?a=1 HTTP/1.1 (request test-id)"), "{name}: {log:?}");
        assert!(log[0].contains("exits.lua:"), "{name}: {log:?}");
    }
}

/// As Lua's own: those with integers refuse what is none, before anything has ended; the others take what C makes of it.
#[test]
fn any_number_is_a_status_or_an_error() {
    for (name, code) in [("text", 3), ("negative", 255), ("whole", 4), ("large", 5)] {
        let (out, _, outcome, got) = run(name);
        assert!(out.starts_with("Status: 500 "), "{name}: {out:?}");
        assert_eq!((outcome, got), (Some(Outcome::Complete), code), "{name}");
    }
    for (name, code) in
        [("nan", 0), ("huge", 0), ("minus_huge", 0), ("beyond", 0), ("fraction", 3), ("minus_fraction", 253)]
    {
        if cfg!(any(feature = "lua53", feature = "lua54", feature = "lua55")) {
            let (mut state, recorder) = started(&format!("exits.lua:{name}"));
            for _ in 0..2 {
                assert_eq!(serve(&mut state, "GET", Body::Memory(vec![])), Outcome::Complete, "{name}");
                let record = recorder.take();
                assert!(record.head.unwrap().starts_with("Status: 500 "), "{name}");
                let [(_, line)] = &record.log[..] else { panic!("{name}: {:?}", record.log) };
                assert!(
                    line.contains("bad argument #1 to 'exit' (number has no integer representation)"),
                    "{line}"
                );
            }
        } else {
            let (out, _, outcome, got) = run(name);
            assert!(out.starts_with("Status: 500 "), "{name}: {out:?}");
            assert_eq!((outcome, got), (Some(Outcome::Complete), code), "{name}");
        }
    }
}

#[test]
fn after_the_head_the_transport_breaks_and_close_still_runs() {
    let (out, log, outcome, code) = run("mid_body");
    assert!(out.ends_with("\r\n\r\npart"), "{out:?}");
    assert_eq!((outcome, code), (Some(Outcome::Broken), 4));
    assert!(log.iter().any(|line| line == "closed"), "{log:?}");
}

#[test]
fn after_the_response_nothing_is_answered_twice() {
    let (out, _, outcome, code) = run("after");
    assert!(out.ends_with("\r\n\r\nwhole"), "{out:?}");
    assert_eq!((outcome, code), (None, 5));
    let (out, _, outcome, code) = run("in_close");
    assert!(out.ends_with("\r\n\r\nwhole"), "{out:?}");
    assert_eq!((outcome, code), (Some(Outcome::Complete), 6));
}
