//! Figures of a request's cost.

use super::*;

/// Figures, not a verdict: `cargo test --release --lib lua::tests::bench -- --ignored --nocapture`.
#[test]
#[ignore = "prints figures that mean something in release builds only"]
fn bench() {
    struct Sink(usize);
    impl Output for Sink {
        fn head(&mut self, head: &[u8]) -> Result<(), ClientGone> {
            self.0 += head.len();
            Ok(())
        }
        fn body(&mut self, bytes: &[u8]) -> Result<(), ClientGone> {
            self.0 += bytes.len();
            Ok(())
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
            panic!("{}", String::from_utf8_lossy(message));
        }
        fn stack(&mut self, _: Interrupt, _: &[u8]) {
            unreachable!("nothing interrupts");
        }
        fn before_program(&mut self) {}
        fn exit(&mut self, _: Option<Outcome>, code: i32) -> ! {
            std::process::exit(code)
        }
    }
    const ROUNDS: u32 = 50_000;
    let variables = variables("GET", &[]);
    for target in ["hello.lua", "hello.lua:short", "hello.lua:five_headers", "hello.lua:iterated"] {
        let mut state = State::new(&settings(target)).unwrap();
        state.load().unwrap();
        state.settle();
        state.start_worker(1, 1, Box::new(Sink(0))).unwrap();
        // Time on the processor, so that neighbours on the machine do not count.
        let clock = || -> f64 {
            let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e3
        };
        let mut runs: Vec<f64> = (0..5)
            .map(|_| {
                let from = clock();
                for _ in 0..ROUNDS {
                    state.serve(Request {
                        serial: 1,
                        id: b"0123456789abcdef",
                        variables: &variables,
                        body: Body::Memory(vec![]),
                        role: Role::Responder,
                    });
                    state.after_response();
                }
                (clock() - from) / f64::from(ROUNDS)
            })
            .collect();
        runs.sort_by(f64::total_cmp);
        let mut environs = super::environ::EnvironBuilder::new(state.lua()).unwrap();
        let from = clock();
        for _ in 0..ROUNDS {
            environs.table(state.lua(), b"0123456789abcdef", &variables).unwrap();
        }
        let environ = (clock() - from) / f64::from(ROUNDS);
        println!(
            "{target}: {:.2} µs a request ({:.2} to {:.2}), environ alone {environ:.2} µs",
            runs[2], runs[0], runs[4]
        );
    }
}
