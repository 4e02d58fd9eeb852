//! Detection of an overloaded queue: `CoDel`'s rule (RFC 8289) for requests that wait for a worker. Reads no clock.
//!
//! A burst fills a queue for a moment. An overload keeps it full: at every look for a whole *interval*, the oldest request has
//! waited for more than the *target*. First come, first served then makes every client wait the longest, and serves clients
//! that are about to give up. So an overloaded queue serves the newest request first, and refuses requests that have waited for
//! the target, early enough for their clients to try again.
//!
//! Not every full queue is an overload. Programs that ask again once they are answered keep a queue full forever, prefer
//! waiting to a refusal, and all get their turn if they are served in order. The difference is that their clients hardly ever
//! give up while they wait ([`GAVE_UP_SHARE`]).

use std::time::{Duration, Instant};

/// Least target, in median service times. Where each request takes a second, a wait for the predecessor is no overload.
const TARGET_SERVICES: u32 = 2;

/// Least interval, in targets. A few slow requests in a row are no overload.
const INTERVAL_TARGETS: u32 = 4;

/// Time over which served and refused requests are counted. The counts are halved at its end, so that they follow the load.
const WINDOW: Duration = Duration::from_secs(20);

/// Least share of clients that give up, one in so many requests that leave the queue, and least number of them in an overload.
const GAVE_UP_SHARE: u32 = 10;
const LEAST_GAVE_UP: u32 = 4;

/// Time after an overload in which the next one is detected without clients that give up.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Shortest and longest `Retry-After` of a refused client, which has whole seconds.
const LEAST_RETRY: Duration = Duration::from_secs(1);
const MOST_RETRY: Duration = Duration::from_secs(60);

/// Longest time for which missing workers excuse waiting. A cold start or a reload is over by then, or will not be over soon.
const MAX_EXCUSE: Duration = Duration::from_secs(60);

/// The settings of the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Longest wait in a queue that is not overloaded.
    pub(crate) target: Duration,
    /// Time for which the wait exceeds the target before the queue is overloaded.
    pub(crate) interval: Duration,
    /// Whether the queue is overloaded only if clients give up, too.
    pub(crate) learns: bool,
}

impl Bounds {
    /// These bounds, raised to the least ones for a service time of `median`.
    fn scaled(self, median: Duration) -> Self {
        let target = self.target.max(median * TARGET_SERVICES);
        Self { target, interval: self.interval.max(target * INTERVAL_TARGETS), ..self }
    }
}

/// The rule's state for one line of the queue.
#[derive(Debug)]
pub(super) struct Codel {
    bounds: Bounds,
    /// [`Self::bounds`], raised for the recent service times.
    scaled: Bounds,
    /// The period in which every look has found a wait beyond the target.
    standing: Option<StandingQueue>,
    /// Start of the period in which every look beyond the target has found workers starting.
    excused: Option<Instant>,
    /// Time at which the last request was taken.
    taken: Option<Instant>,
    /// Time at which waiting clients last gave up, or would have without a refusal.
    impatient: Option<Instant>,
}

/// A period in which the queue does not shrink below the target.
#[derive(Clone, Copy, Debug)]
struct StandingQueue {
    since: Instant,
    /// Wait of the oldest request at `since`.
    waited: Duration,
    /// Start of the counts `served` and `refused`.
    counted_since: Instant,
    served: u32,
    refused: u32,
    /// Number of clients that left while they waited, or reached the queue timeout.
    gave_up: u32,
    /// Time of the last refusal, or of the start of the overload; `None` before the overload.
    overloaded: Option<Instant>,
}

impl Codel {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, scaled: bounds, standing: None, excused: None, taken: None, impatient: None }
    }

    pub(super) fn set_bounds(&mut self, bounds: Bounds) {
        (self.bounds, self.scaled) = (bounds, bounds);
    }

    pub(super) fn is_overloaded(&self) -> bool {
        self.standing.is_some_and(|standing| standing.overloaded.is_some())
    }

    /// Notes that a worker takes a request, from any line, while the oldest of this one has waited for `waited`. `pool_grows`
    /// returns whether additional workers are starting.
    pub(super) fn update(
        &mut self,
        now: Instant,
        waited: Duration,
        median: Duration,
        pool_grows: impl FnOnce() -> bool,
    ) {
        self.scaled = self.bounds.scaled(median);
        let Bounds { target, interval, .. } = self.scaled;
        // A longer pause means that every worker was held up, and says nothing about the rate.
        let paused = self.taken.replace(now).is_none_or(|taken| now - taken > interval);
        if let Some(refused) = self.standing.and_then(|standing| standing.overloaded) {
            self.impatient = Some(now);
            // The oldest never waits beyond the target in an overload, so the overload is over when none is refused.
            if now - refused > interval || self.is_excused(now, pool_grows) {
                self.standing = None;
            } else if let Some(standing) = &mut self.standing {
                standing.serve(now);
            }
            return;
        }
        if waited < target || self.is_excused(now, pool_grows) {
            self.standing = None;
            return;
        }
        match &mut self.standing {
            Some(standing) if !paused => {
                standing.serve(now);
                if now - standing.since < interval {
                    return;
                }
                if standing.shrinks(waited) {
                    self.standing = Some(StandingQueue::new(now, waited));
                    return;
                }
                let remembered = self.impatient.is_some_and(|impatient| now - impatient < REMEMBERED);
                if !self.bounds.learns || remembered || standing.is_given_up() {
                    standing.overloaded = Some(now);
                }
            }
            _ => self.standing = Some(StandingQueue::new(now, waited)),
        }
    }

    /// Notes that a client left while it waited, or reached the queue timeout.
    pub(super) fn gave_up(&mut self) {
        if let Some(standing) = &mut self.standing {
            standing.gave_up = standing.gave_up.saturating_add(1);
        }
    }

    /// Notes that the line is empty.
    pub(super) fn emptied(&mut self) {
        self.standing = None;
    }

    /// Time at which a request that has waited since `started` is to be refused.
    pub(super) fn refusal_due(&self, started: Instant) -> Option<Instant> {
        self.is_overloaded().then(|| started + self.scaled.target)
    }

    /// Whether a request that is due may be refused now.
    pub(super) fn may_refuse(&mut self, now: Instant, pool_grows: impl FnOnce() -> bool) -> bool {
        let paused = self.taken.is_none_or(|taken| now - taken > self.scaled.interval);
        let may = self.is_overloaded() && !paused && !self.is_excused(now, pool_grows);
        if !may {
            self.standing = None;
        }
        may
    }

    /// Notes a refusal while `waiting` others wait. Returns the `Retry-After`: the time in which all recently refused clients
    /// could be served.
    pub(super) fn refused(&mut self, now: Instant, waiting: usize) -> Duration {
        let Some(standing) = &mut self.standing else { return LEAST_RETRY };
        standing.refused = standing.refused.saturating_add(1);
        standing.overloaded = Some(now);
        let ahead = u32::try_from(waiting).unwrap_or(u32::MAX).saturating_add(standing.refused);
        let each = (now - standing.counted_since).checked_div(standing.served).unwrap_or(MOST_RETRY);
        each.saturating_mul(ahead).clamp(LEAST_RETRY, MOST_RETRY)
    }

    fn is_excused(&mut self, now: Instant, pool_grows: impl FnOnce() -> bool) -> bool {
        if !pool_grows() {
            self.excused = None;
            return false;
        }
        now - *self.excused.get_or_insert(now) < MAX_EXCUSE
    }
}

impl StandingQueue {
    fn new(now: Instant, waited: Duration) -> Self {
        Self { since: now, waited, counted_since: now, served: 1, refused: 0, gave_up: 0, overloaded: None }
    }

    /// Whether the queue is the rest of a cold start or of a burst, and will soon be empty by itself.
    fn shrinks(&self, waited: Duration) -> bool {
        waited * 4 < self.waited * 3
    }

    /// Whether so many clients give up that waiting is not worth it.
    fn is_given_up(&self) -> bool {
        let left = self.gave_up.saturating_add(self.served);
        self.gave_up >= LEAST_GAVE_UP && self.gave_up >= left / GAVE_UP_SHARE
    }

    fn serve(&mut self, now: Instant) {
        self.served = self.served.saturating_add(1);
        let counted = now - self.counted_since;
        if counted >= WINDOW {
            for count in [&mut self.served, &mut self.refused, &mut self.gave_up] {
                *count /= 2;
            }
            self.counted_since = now - counted / 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const BOUNDS: Bounds =
        Bounds { target: Duration::from_millis(100), interval: Duration::from_secs(1), learns: false };
    /// Time between two requests that workers take.
    const STEP: Duration = Duration::from_millis(10);

    struct Story {
        codel: Codel,
        now: Instant,
        median: Duration,
        pool_grows: bool,
    }

    impl Story {
        fn new() -> Self {
            Self::with(BOUNDS)
        }

        fn with(bounds: Bounds) -> Self {
            Self { codel: Codel::new(bounds), now: Instant::now(), median: 20 * MS, pool_grows: false }
        }

        /// Takes a request at every step for `long`, while the oldest has waited for `waited`. Returns whether the line is
        /// overloaded then.
        fn goes_on(&mut self, long: Duration, waited: Duration) -> bool {
            let end = self.now + long;
            while self.now < end {
                self.now += STEP;
                self.codel.update(self.now, waited, self.median, || self.pool_grows);
            }
            self.codel.is_overloaded()
        }
    }

    #[test]
    fn waiting_has_to_exceed_the_target_for_a_whole_interval() {
        let mut story = Story::new();
        assert!(!story.goes_on(BOUNDS.interval, 100 * MS));
        assert!(!story.goes_on(STEP, 99 * MS), "a short wait begins anew");
        assert!(!story.goes_on(BOUNDS.interval, 500 * MS));
        story.codel.emptied();
        assert!(!story.goes_on(BOUNDS.interval, 500 * MS), "and so does an empty queue");
        assert!(story.goes_on(STEP, 500 * MS));
    }

    #[test]
    fn an_overload_ends_with_an_empty_queue_or_an_interval_without_refusals() {
        let mut story = Story::new();
        assert!(story.goes_on(BOUNDS.interval + STEP, 200 * MS));
        assert!(
            story.goes_on(BOUNDS.interval / 2, 50 * MS),
            "the oldest are refused before they have waited for longer"
        );
        story.codel.refused(story.now, 0);
        assert!(story.goes_on(BOUNDS.interval, 50 * MS));
        assert!(!story.goes_on(STEP, 50 * MS));
        assert!(story.goes_on(BOUNDS.interval * 2, 200 * MS));
        story.codel.emptied();
        assert!(!story.codel.is_overloaded());
    }

    #[test]
    fn a_queue_that_learns_is_not_overloaded_until_clients_give_up() {
        let mut story = Story::with(Bounds { learns: true, ..BOUNDS });
        story.codel.gave_up();
        assert!(!story.goes_on(BOUNDS.interval * 60, 500 * MS), "all of them wait");
        // At 100 served a second, one in 20 is not many, and neither are three.
        for _ in 0..60 {
            (0..5).for_each(|_| story.codel.gave_up());
            assert!(!story.goes_on(BOUNDS.interval, 500 * MS));
        }
        story.codel.emptied();
        assert!(!story.goes_on(STEP, 500 * MS));
        (0..LEAST_GAVE_UP - 1).for_each(|_| story.codel.gave_up());
        assert!(!story.goes_on(BOUNDS.interval, 500 * MS));
        (0..20).for_each(|_| story.codel.gave_up());
        assert!(story.goes_on(STEP, 500 * MS), "one in ten is");
    }

    #[test]
    fn impatience_of_clients_is_remembered_for_a_while() {
        let mut story = Story::with(Bounds { learns: true, ..BOUNDS });
        story.goes_on(STEP, 500 * MS);
        (0..50).for_each(|_| story.codel.gave_up());
        // Clients do not give up while the oldest are refused, however long.
        assert!(story.goes_on(BOUNDS.interval, 500 * MS));
        for _ in 0..200 {
            story.codel.refused(story.now, 0);
            assert!(story.goes_on(BOUNDS.interval, 50 * MS));
        }
        story.codel.emptied();
        story.goes_on(REMEMBERED / 2, 50 * MS);
        assert!(story.goes_on(BOUNDS.interval + STEP, 500 * MS), "the next one begins at once");
        story.codel.emptied();
        story.goes_on(REMEMBERED + STEP, 50 * MS);
        assert!(!story.goes_on(BOUNDS.interval * 10, 500 * MS), "the next day's has to be proved");
    }

    #[test]
    fn a_queue_that_shrinks_is_no_overload() {
        let mut story = Story::new();
        for waited in [3000, 2200, 1600, 1100, 800, 500, 300] {
            assert!(!story.goes_on(BOUNDS.interval, waited * MS), "{waited}");
        }
        assert!(story.goes_on(BOUNDS.interval * 3, 290 * MS), "one that no longer does is");

        for (waited, overloaded) in [(299, false), (300, true)] {
            let mut story = Story::new();
            story.goes_on(BOUNDS.interval, 400 * MS);
            assert_eq!(story.goes_on(STEP, waited * MS), overloaded, "from 400 ms to {waited} ms");
        }
    }

    #[test]
    fn the_memory_of_impatience_ends_at_its_time() {
        for (later, overloaded) in [(Duration::ZERO, false), (Duration::from_nanos(1), true)] {
            let mut story = Story::with(Bounds { learns: true, ..BOUNDS });
            story.goes_on(BOUNDS.interval, 500 * MS);
            story.codel.impatient = Some(story.now + STEP - REMEMBERED + later);
            assert_eq!(story.goes_on(STEP, 500 * MS), overloaded);
        }
    }

    #[test]
    fn bounds_grow_with_the_service_time() {
        let mut story = Story::new();
        story.median = 1000 * MS;
        assert!(!story.goes_on(BOUNDS.interval * 20, 1999 * MS), "a wait for two predecessors");
        assert!(!story.goes_on(BOUNDS.interval * 8, 2000 * MS));
        assert!(story.goes_on(STEP, 2000 * MS));
        let due = story.codel.refusal_due(story.now).unwrap();
        assert_eq!(due - story.now, 2000 * MS);
    }

    #[test]
    fn a_pause_of_all_workers_is_no_overload() {
        let mut story = Story::new();
        assert!(!story.goes_on(BOUNDS.interval / 2, 200 * MS));
        story.now += BOUNDS.interval * 5;
        assert!(!story.goes_on(BOUNDS.interval, 5000 * MS), "the interval begins when they go on");
        assert!(story.goes_on(STEP * 2, 5000 * MS));

        // A look a whole interval after the one before is no pause yet.
        for (pause, overloaded) in [(BOUNDS.interval, true), (BOUNDS.interval + MS, false)] {
            let mut story = Story::new();
            story.goes_on(BOUNDS.interval / 2, 200 * MS);
            story.codel.update(story.now + pause, 200 * MS, story.median, || false);
            assert_eq!(story.codel.is_overloaded(), overloaded, "after {pause:?}");
        }
    }

    #[test]
    fn a_pause_ends_an_overload_before_a_refusal() {
        let mut story = Story::new();
        assert!(story.goes_on(BOUNDS.interval + STEP, 200 * MS));
        assert!(story.codel.may_refuse(story.now + BOUNDS.interval, || false));
        assert!(!story.codel.may_refuse(story.now + BOUNDS.interval + STEP, || false));
        assert!(!story.codel.is_overloaded());
    }

    #[test]
    fn starting_workers_excuse_waiting_but_not_for_ever() {
        let mut story = Story::new();
        story.pool_grows = true;
        assert!(!story.goes_on(MAX_EXCUSE, 200 * MS));
        assert!(story.codel.standing.is_none());
        story.goes_on(STEP, 200 * MS);
        assert!(story.codel.standing.is_some(), "the excuse ends at its time");
        assert!(story.goes_on(BOUNDS.interval * 2 - STEP, 200 * MS));
        // A reload during an overload.
        story.pool_grows = false;
        assert!(story.goes_on(STEP, 200 * MS));
        assert!(!story.codel.may_refuse(story.now, || true));
        assert!(!story.codel.is_overloaded());
        assert!(!story.goes_on(BOUNDS.interval, 200 * MS), "an interval from its end");
    }

    #[test]
    fn the_counts_are_halved_at_the_end_of_their_window() {
        let start = Instant::now();
        let new = StandingQueue::new(start, MS);
        let mut standing = StandingQueue { served: 100, refused: 50, gave_up: 11, ..new };
        let counts = |of: &StandingQueue| (of.served, of.refused, of.gave_up, of.counted_since - start);
        standing.serve(start + WINDOW - MS);
        assert_eq!(counts(&standing), (101, 50, 11, Duration::ZERO));
        standing.serve(start + WINDOW);
        assert_eq!(counts(&standing), (51, 25, 5, WINDOW / 2));
    }

    #[test]
    fn retry_after_is_the_time_to_serve_the_recently_refused() {
        let mut story = Story::new();
        assert!(story.goes_on(BOUNDS.interval + STEP, 200 * MS));
        // Served and refused: 100 a second each.
        assert_eq!(story.codel.refused(story.now, 20), LEAST_RETRY);
        for _ in 0..3000 {
            story.goes_on(STEP, 50 * MS);
            story.codel.refused(story.now, 20);
        }
        let retry = story.codel.refused(story.now, 20);
        assert!(WINDOW / 2 < retry && retry < WINDOW, "{retry:?}");
        assert_eq!(story.codel.refused(story.now + WINDOW * 100, 1_000_000), MOST_RETRY);
    }
}
