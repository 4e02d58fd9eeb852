//! Simulation of the queue under load, compared with first come, first served: whole minutes under a fake clock.

use std::time::{Duration, Instant};

use crate::proto::queue::{Bounds, Place, Queue};

const MS: Duration = Duration::from_millis(1);

/// The defaults of `--queue-target` and `--queue-interval`.
const ADAPTIVE: Option<Bounds> =
    Some(Bounds { target: Duration::from_millis(100), interval: Duration::from_secs(1), learns: true });
const CODEL: Option<Bounds> = match ADAPTIVE {
    Some(bounds) => Some(Bounds { learns: false, ..bounds }),
    None => None,
};
const FIFO: Option<Bounds> = None;

/// A load of requests at random times on workers. Clients give up after `patience`.
#[derive(Clone, Copy)]
struct Load {
    workers: usize,
    /// Service time of the request with this number.
    service: fn(usize) -> Duration,
    /// Requests per second, at each second of the run.
    rate: fn(u64) -> f64,
    patience: Duration,
    seconds: u64,
    /// Time until which most workers are starting.
    startup: Duration,
}

const TWICE: Load = Load {
    workers: 2,
    service: |_| Duration::from_millis(20),
    rate: |_| 200.0,
    patience: Duration::from_secs(1),
    seconds: 60,
    startup: Duration::ZERO,
};

#[derive(Debug, Default)]
struct Outcome {
    offered: usize,
    /// Latencies of requests answered in time.
    in_time: Vec<Duration>,
    /// Requests answered after their client had left, by a worker that had begun before.
    late: usize,
    refused: usize,
    gave_up: usize,
}

impl Outcome {
    /// Answers in time per second.
    fn goodput(&self, load: &Load) -> f64 {
        self.in_time.len() as f64 / load.seconds as f64
    }

    fn p50(&mut self) -> Duration {
        self.in_time.sort_unstable();
        self.in_time[self.in_time.len() / 2]
    }
}

/// Runs the simulation in steps of a millisecond.
fn run(load: &Load, bounds: Option<Bounds>) -> Outcome {
    let (start, mut random) = (Instant::now(), fastrand::Rng::with_seed(16));
    let mut queue: Queue<usize> = Queue::new(1024, Duration::from_secs(10), bounds);
    let (mut came, mut places): (Vec<Instant>, Vec<Place>) = (Vec::new(), Vec::new());
    // The request of each worker, with the time of its end.
    let mut workers: Vec<Option<(usize, Instant)>> = vec![None; load.workers];
    let mut dispatched_at: Vec<Instant> = Vec::new();
    let (mut next, mut outcome, mut patient) = (0.0, Outcome::default(), 0);
    for millis in 0..load.seconds * 1000 {
        let now = start + MS * u32::try_from(millis).unwrap();
        let pool_grows = || now < start + load.startup;
        for worker in &mut workers {
            if let Some((number, _)) = worker.take_if(|(_, done)| *done <= now) {
                let took = now - came[number];
                if took <= load.patience { outcome.in_time.push(took) } else { outcome.late += 1 }
            }
        }
        while patient < came.len() && came[patient] + load.patience <= now {
            outcome.gave_up += usize::from(queue.give_up(places[patient]).is_some());
            // A worker that learns that its client left is done.
            for worker in &mut workers {
                if worker.take_if(|(number, _)| *number == patient).is_some() {
                    queue.left_while_it_ran(places[patient], dispatched_at[patient], now);
                    outcome.late += 1;
                }
            }
            patient += 1;
        }
        while next <= millis as f64 {
            let place = queue.place(now, Duration::ZERO, false);
            let turned = queue.push(place, came.len(), now);
            outcome.refused += usize::from(turned.is_some());
            came.push(now);
            dispatched_at.push(now);
            places.push(place);
            next += -(1.0 - random.f64()).ln() * 1000.0 / (load.rate)(millis / 1000);
        }
        let present = if pool_grows() { 1 } else { load.workers };
        for worker in workers[..present].iter_mut().filter(|worker| worker.is_none()) {
            if let Some((_, number)) = queue.take(now, (load.service)(0), pool_grows) {
                *worker = Some((number, now + (load.service)(number)));
                dispatched_at[number] = now;
            }
        }
        while queue.pop_expired(now).is_some() || queue.pop_refused(now, pool_grows).is_some() {
            outcome.refused += 1;
        }
    }
    outcome.offered = came.len();
    outcome
}

#[test]
fn at_twice_the_capacity_nearly_the_whole_capacity_is_of_use() {
    let (mut fifo, mut adaptive) = (run(&TWICE, FIFO), run(&TWICE, ADAPTIVE));
    let (before, after) = (fifo.goodput(&TWICE), adaptive.goodput(&TWICE));
    assert!(before < 50.0, "first come, first served is of use to {before}/s");
    assert!(after > 95.0, "{after}/s");
    let (before, after) = (fifo.p50(), adaptive.p50());
    assert!(before > 500 * MS, "{before:?}");
    assert!(after < 40 * MS, "{after:?}");
    assert_eq!(fifo.refused, 0);
    let too_late = adaptive.gave_up + adaptive.late;
    assert!(too_late < 50, "those from whom it learned, and then none: {too_late}");
}

#[test]
fn without_learning_patient_clients_are_served_soon() {
    let patient = Load { patience: Duration::from_secs(60), ..TWICE };
    let (mut fifo, mut codel) = (run(&patient, FIFO), run(&patient, CODEL));
    assert!(codel.goodput(&patient) > 95.0 && fifo.goodput(&patient) > 95.0);
    assert!(fifo.p50() > 3000 * MS, "{:?}", fifo.p50());
    assert!(codel.p50() < 40 * MS, "{:?}", codel.p50());
}

#[test]
fn clients_that_stay_are_all_answered() {
    let rate = |second| if second < 20 { 120.0 } else { 50.0 };
    let patient = Load { rate, patience: Duration::from_secs(60), ..TWICE };
    let (adaptive, codel) = (run(&patient, ADAPTIVE), run(&patient, CODEL));
    assert_eq!((adaptive.refused, adaptive.gave_up), (0, 0), "of {}", adaptive.offered);
    assert!(codel.refused > 100, "{}", codel.refused);
}

#[test]
fn hardly_a_request_is_refused_below_the_capacity() {
    for rate in [|_| 50.0, |_| 85.0, |second| if second % 10 == 0 { 120.0 } else { 50.0 }] {
        let load = Load { rate, ..TWICE };
        let outcome = run(&load, ADAPTIVE);
        // Random arrivals exceed the capacity in some seconds.
        assert!(outcome.refused * 200 <= outcome.offered, "{} of {}", outcome.refused, outcome.offered);
        assert_eq!((outcome.gave_up, outcome.late), (0, 0));
    }
}

#[test]
fn a_slow_report_now_and_then_causes_no_refusals() {
    let service = |number| if number % 200 == 199 { 1500 * MS } else { 20 * MS };
    let load = Load { service, rate: |_| 35.0, patience: Duration::from_secs(5), ..TWICE };
    assert_eq!(run(&load, ADAPTIVE).refused, 0);
}

#[test]
fn no_request_is_refused_while_workers_start() {
    let load = Load {
        workers: 8,
        rate: |_| 200.0,
        patience: Duration::from_secs(60),
        startup: Duration::from_secs(4),
        ..TWICE
    };
    let outcome = run(&load, ADAPTIVE);
    assert_eq!((outcome.refused, outcome.gave_up), (0, 0), "of {}", outcome.offered);
}

#[test]
fn an_overload_has_no_effect_after_its_end() {
    let load = Load { rate: |second| if second < 20 { 200.0 } else { 50.0 }, ..TWICE };
    let only_overload = Load { seconds: 20, ..load };
    let (all, overloaded) = (run(&load, ADAPTIVE), run(&only_overload, ADAPTIVE));
    assert!(all.refused <= overloaded.refused + 30, "{} and {}", all.refused, overloaded.refused);
}
