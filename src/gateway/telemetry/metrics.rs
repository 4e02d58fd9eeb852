//! The metrics of requests: counts the end of each, and writes its line of the access log.
//!
//! Each request is reported once, as an [`Ended`]. The metrics belongs to the gateway's only thread, so counters are plain
//! numbers; a request costs no allocation without an access log.

use std::cell::{Cell, Ref, RefCell};
use std::time::{Duration, Instant};

use crate::gateway::telemetry::access_log::{AccessLog, Entry};
use crate::gateway::telemetry::histogram::Histogram;
use crate::gateway::telemetry::recent::Recent;
use crate::gateway::telemetry::request_line::RequestLine;
use crate::log::rate_limit::LogRateLimiter;
use crate::proto::pool::State;
use crate::proto::request_end::{EndedRequest, RejectReason, RequestEnd};

/// The end of a worker, by its cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkerEnd {
    /// The worker was told to end.
    Asked,
    /// The worker ended before it was ready.
    NotStarted,
    /// The worker ended by itself, or was killed.
    Died,
}

impl WorkerEnd {
    /// All ends. Each is at the index of its discriminant.
    pub(crate) const ALL: [Self; 3] = [Self::Asked, Self::NotStarted, Self::Died];

    /// Name of the end in metrics and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::NotStarted => "not_started",
            Self::Died => "died",
        }
    }

    /// The end of a worker that was in this state.
    pub(crate) fn of(state: State) -> Self {
        match state {
            State::Draining => Self::Asked,
            State::Starting => Self::NotStarted,
            State::Proved | State::Idle | State::Busy => Self::Died,
        }
    }
}

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Responses by the first digit of their status; index 0 counts requests without a response.
    pub(crate) by_class: [u64; 6],
    pub(crate) aborted: u64,
    pub(crate) broken: u64,
    /// Refused requests, in the order of [`RejectReason::ALL`].
    pub(crate) refused: [u64; RejectReason::ALL.len()],
    /// Bytes of response bodies.
    pub(crate) body_bytes: u64,
    pub(crate) connections: u64,
    /// Connections of peers outside `--allow-from`, which do not count as connections.
    pub(crate) refused_connections: u64,
    /// Connections closed because their data was not FastCGI.
    pub(crate) malformed_connections: u64,
    pub(crate) workers_started: u64,
    /// Workers that ended, in the order of [`WorkerEnd::ALL`].
    pub(crate) workers_ended: [u64; WorkerEnd::ALL.len()],
    pub(crate) reloads: u64,
    pub(crate) failed_reloads: u64,
    /// Service times of the last answered requests.
    recent: Recent,
    generations: Vec<Generation>,
    /// Times of generations that are gone.
    gone: Times,
}

/// Times of requests: the wait for a worker, and the service.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) wait: Histogram,
    pub(crate) service: Histogram,
}

/// The times of one generation. Generations are rarely more than two, so a scan beats a map.
#[derive(Debug)]
struct Generation {
    number: u32,
    /// Times by worker number. Numbers are reused, so the list is short.
    workers: Vec<Times>,
}

impl Counts {
    fn observe(&mut self, generation: u32, worker: u32, wait: Duration, service: Duration) {
        let position = self.generations.iter().position(|known| known.number == generation);
        let position = position.unwrap_or_else(|| {
            self.generations.push(Generation { number: generation, workers: Vec::new() });
            self.generations.len() - 1
        });
        let workers = &mut self.generations[position].workers;
        let index = worker as usize;
        if workers.len() <= index {
            workers.resize(index + 1, Times::default());
        }
        workers[index].wait.observe(wait);
        workers[index].service.observe(service);
    }

    /// Times of all requests that a worker has had, those of gone generations included.
    pub(crate) fn times(&self) -> Times {
        let workers = self.generations.iter().flat_map(|generation| &generation.workers);
        workers.fold(self.gone, |mut sum, times| {
            sum.add(times);
            sum
        })
    }

    /// Times of the requests of one worker.
    pub(crate) fn times_of(&self, generation: u32, worker: u32) -> Option<&Times> {
        self.generations.iter().find(|known| known.number == generation)?.workers.get(worker as usize)
    }

    /// Times of the requests of each worker: generation, worker number, times. Gone generations are not included.
    pub(crate) fn times_by_worker(&self) -> impl Iterator<Item = (u32, u32, &Times)> {
        self.generations.iter().flat_map(|generation| {
            let numbered = (0..).zip(&generation.workers).filter(|(_, times)| times.service.count() > 0);
            numbered.map(|(worker, times)| (generation.number, worker, times))
        })
    }

    /// Times of the requests of one generation.
    pub(crate) fn times_of_generation(&self, number: u32) -> Times {
        let mut sum = Times::default();
        let of_it = self.generations.iter().filter(|generation| generation.number == number);
        of_it.flat_map(|generation| &generation.workers).for_each(|times| sum.add(times));
        sum
    }
}

impl Times {
    fn add(&mut self, other: &Self) {
        self.wait.add(&other.wait);
        self.service.add(&other.service);
    }
}

/// The metrics: counters and the access log.
#[derive(Debug)]
pub(crate) struct Metrics {
    counts: RefCell<Counts>,
    /// Number of open connections.
    open: Cell<usize>,
    access_log: Option<AccessLog>,
    /// Rate limit of log lines about refused requests.
    refusals: RefCell<LogRateLimiter>,
}

impl Metrics {
    pub(crate) fn new(access_log: Option<AccessLog>) -> Self {
        let refusals = RefCell::new(LogRateLimiter::new(Instant::now()));
        Self { counts: RefCell::default(), open: Cell::new(0), access_log, refusals }
    }

    pub(crate) fn counts(&self) -> Ref<'_, Counts> {
        self.counts.borrow()
    }

    pub(crate) fn access_log(&self) -> Option<&AccessLog> {
        self.access_log.as_ref()
    }

    /// Counts a request that has ended: its client has the response or has gone.
    pub(crate) fn ended(&self, ended: &EndedRequest, now: Instant) {
        let &EndedRequest { came, complete, assigned, done, status, bytes, end, .. } = ended;
        let wait = complete.then(|| assigned.map_or(now, |assigned| assigned.at) - came);
        let service = assigned.map(|assigned| done.unwrap_or(now) - assigned.at);
        {
            let counts = &mut *self.counts.borrow_mut();
            counts.by_class[status.map_or(0, |status| usize::from(status / 100).min(5))] += 1;
            counts.body_bytes += bytes;
            match end {
                RequestEnd::Complete => {}
                RequestEnd::Aborted => counts.aborted += 1,
                RequestEnd::Broken => counts.broken += 1,
                RequestEnd::Rejected(why) => counts.refused[why as usize] += 1,
            }
            if let (Some(assigned), Some(wait), Some(service)) = (assigned, wait, service) {
                counts.observe(assigned.generation, assigned.worker, wait, service);
                if end == RequestEnd::Complete {
                    counts.recent.observe(service);
                }
            }
        }
        if let Some(log) = &self.access_log {
            log.write(&Entry {
                line: RequestLine::of(&ended.variables),
                ids: ended.ids(),
                status,
                bytes,
                wait,
                service,
                worker: assigned.map(|assigned| (assigned.worker, assigned.generation)),
                end,
            });
        }
    }

    /// Median service time of the last requests.
    pub(crate) fn median_service(&self) -> Duration {
        self.counts.borrow().recent.median()
    }

    // Connections.

    pub(crate) fn connection_opened(&self) {
        self.open.set(self.open.get() + 1);
        self.counts.borrow_mut().connections += 1;
    }

    /// Counts a connection of a peer outside `--allow-from`.
    pub(crate) fn connection_refused(&self) {
        self.counts.borrow_mut().refused_connections += 1;
    }

    /// Counts a connection closed because its data was not FastCGI.
    pub(crate) fn connection_malformed(&self) {
        self.counts.borrow_mut().malformed_connections += 1;
    }

    /// Notes a closed connection. Returns the number of open ones.
    pub(crate) fn connection_closed(&self) -> usize {
        self.open.set(self.open.get() - 1);
        self.open.get()
    }

    pub(crate) fn open_connections(&self) -> usize {
        self.open.get()
    }

    /// `Some` if a refusal may be logged now. The inner value is the number of refusals left out before, `None` for zero. All
    /// are counted, so that an overloaded server does not fill its disk with lines.
    pub(crate) fn may_log_refusal(&self) -> Option<Option<u64>> {
        self.refusals.borrow_mut().allow(Instant::now())
    }

    // Workers and generations.

    pub(crate) fn worker_started(&self) {
        self.counts.borrow_mut().workers_started += 1;
    }

    pub(crate) fn worker_ended(&self, how: WorkerEnd) {
        self.counts.borrow_mut().workers_ended[how as usize] += 1;
    }

    /// Counts the end of a load, `well` if its generation serves.
    pub(crate) fn reloaded(&self, well: bool) {
        let counts = &mut *self.counts.borrow_mut();
        *(if well { &mut counts.reloads } else { &mut counts.failed_reloads }) += 1;
    }

    /// Moves the times of generations that `lives` rejects to the sum of gone ones.
    pub(crate) fn forget_generations(&self, lives: impl Fn(u32) -> bool) {
        let Counts { generations, gone, .. } = &mut *self.counts.borrow_mut();
        generations.retain(|generation| {
            let lives = lives(generation.number);
            if !lives {
                generation.workers.iter().for_each(|times| gone.add(times));
            }
            lives
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_at_the_index_of_its_discriminant() {
        for (place, why) in RejectReason::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, place);
        }
        for (place, how) in WorkerEnd::ALL.into_iter().enumerate() {
            assert_eq!(how as usize, place);
        }
    }

    #[test]
    fn the_times_of_a_gone_generation_stay_in_the_sum() {
        let metrics = Metrics::new(None);
        let ms = Duration::from_millis;
        metrics.counts.borrow_mut().observe(1, 2, ms(1), ms(20));
        metrics.counts.borrow_mut().observe(2, 1, ms(2), ms(30));
        metrics.forget_generations(|generation| generation == 2);
        // Requests that end in a gone generation count as well.
        metrics.counts.borrow_mut().observe(1, 1, ms(3), ms(40));
        metrics.forget_generations(|generation| generation == 2);

        let counts = metrics.counts();
        assert_eq!(counts.times_of_generation(1).service.count(), 0);
        assert_eq!(counts.times_of_generation(2).service.count(), 1);
        let times = counts.times();
        assert_eq!((times.wait.count(), times.wait.sum()), (3, ms(6)));
        assert_eq!((times.service.count(), times.service.sum()), (3, ms(90)));
    }
}
