//! Decides when a queue is overloaded: `CoDel`'s rule (RFC 8289) for requests that wait for a worker. Std only; told the time.
//!
//! A burst fills a queue and is gone a moment later. An overload keeps it full: the request that has waited longest has waited
//! for more than the *target* at every look, for a whole *interval*. First come, first served then makes every client wait the
//! longest, and serves those that are about to give up. So the queue serves the newest first while it is overloaded, and
//! answers whoever has waited for the target, early enough to try again.
//!
//! Not every full queue is one of people. Programs that ask again as soon as they are answered keep it full for ever, would
//! rather wait than be refused, and all have their turn if they are served in order. What tells the two apart is whether
//! clients give up while they wait: where hardly any does, waiting is worth it ([`GAVE_UP_SHARE`]).

use std::time::{Duration, Instant};

/// The target is never shorter than so many median service times: where each request takes a second, one that waits for
/// its predecessor is no overload.
const TARGET_SERVICES: u32 = 2;

/// The interval is never shorter than so many targets, or a few slow requests in a row would pass for an overload.
const INTERVAL_TARGETS: u32 = 4;

/// The time over which requests served and refused are counted; the counts are halved at its end, so that they follow the
/// load.
const WINDOW: Duration = Duration::from_secs(20);

/// Waiting is not worth it where one in so many of those that leave the queue has given up, and at least so many have.
const GAVE_UP_SHARE: u32 = 10;
const LEAST_GAVE_UP: u32 = 4;

/// How long that is remembered when an overload is over: the next one need not prove it again.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The shortest and the longest time after which a refused client may try again. `Retry-After` has whole seconds.
const LEAST_RETRY: Duration = Duration::from_secs(1);
const MOST_RETRY: Duration = Duration::from_secs(60);

/// How long missing workers may excuse waiting. A cold start or a reload is over by then, or will not be over soon.
const MAX_EXCUSE: Duration = Duration::from_secs(60);

/// What the operator sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// How long a request may wait in a queue that is not overloaded.
    pub(crate) target: Duration,
    /// How long waiting may exceed the target before the queue is overloaded.
    pub(crate) interval: Duration,
    /// Whether it is overloaded only if clients give up, too.
    pub(crate) learns: bool,
}

impl Bounds {
    /// These bounds for requests of which half take at most `median`.
    fn scaled(self, median: Duration) -> Self {
        let target = self.target.max(median * TARGET_SERVICES);
        Self { target, interval: self.interval.max(target * INTERVAL_TARGETS), ..self }
    }
}

/// The rule's state for one queue.
#[derive(Debug)]
pub(super) struct Codel {
    bounds: Bounds,
    /// [`Self::bounds`] as they apply to the requests of late.
    scaled: Bounds,
    /// Since when every look has found a wait beyond the target.
    standing: Option<Standing>,
    /// Since when workers have been on their way at every look that found one.
    excused: Option<Instant>,
    /// When a request was last taken.
    taken: Option<Instant>,
    /// When clients that wait were last known to give up: some did, or would have if they had not been refused.
    impatient: Option<Instant>,
}

/// A queue that does not shrink below the target.
#[derive(Clone, Copy, Debug)]
struct Standing {
    since: Instant,
    /// How long the oldest had waited then.
    waited: Duration,
    /// From when `served` and `refused` count.
    counted_since: Instant,
    served: u32,
    refused: u32,
    /// How many clients left while they waited, or have waited for as long as they may.
    gave_up: u32,
    /// When a request was last refused, or the overload began; none before it.
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

    /// A worker takes a request, from whichever queue, while the oldest of this one has waited for so long. `pool_grows`
    /// says whether workers are on their way that have not been there before.
    pub(super) fn look(
        &mut self,
        now: Instant,
        waited: Duration,
        median: Duration,
        pool_grows: impl FnOnce() -> bool,
    ) {
        self.scaled = self.bounds.scaled(median);
        let Bounds { target, interval, .. } = self.scaled;
        // Where nothing was taken for so long, every worker was held up. That says nothing about the rate.
        let paused = self.taken.replace(now).is_none_or(|taken| now - taken > interval);
        if let Some(refused) = self.standing.and_then(|standing| standing.overloaded) {
            self.impatient = Some(now);
            // The oldest never waits beyond the target then, since it is refused: an overload is over when none is.
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
                    self.standing = Some(Standing::new(now, waited));
                    return;
                }
                let remembered = self.impatient.is_some_and(|impatient| now - impatient < REMEMBERED);
                if !self.bounds.learns || remembered || standing.is_given_up() {
                    standing.overloaded = Some(now);
                }
            }
            _ => self.standing = Some(Standing::new(now, waited)),
        }
    }

    /// A client has left while it waited, or has waited for as long as it may.
    pub(super) fn gave_up(&mut self) {
        if let Some(standing) = &mut self.standing {
            standing.gave_up = standing.gave_up.saturating_add(1);
        }
    }

    /// Nothing waits any more.
    pub(super) fn emptied(&mut self) {
        self.standing = None;
    }

    /// When a request that has waited since `started` is to be refused.
    pub(super) fn refusal_due(&self, started: Instant) -> Option<Instant> {
        self.is_overloaded().then(|| started + self.scaled.target)
    }

    /// Whether what is due may be refused now.
    pub(super) fn may_refuse(&mut self, now: Instant, pool_grows: impl FnOnce() -> bool) -> bool {
        let paused = self.taken.is_none_or(|taken| now - taken > self.scaled.interval);
        let may = self.is_overloaded() && !paused && !self.is_excused(now, pool_grows);
        if !may {
            self.standing = None;
        }
        may
    }

    /// A request is refused while `waiting` others wait. Says when its client may try again: when all that were refused of
    /// late could have been served.
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

impl Standing {
    fn new(now: Instant, waited: Duration) -> Self {
        Self { since: now, waited, counted_since: now, served: 1, refused: 0, gave_up: 0, overloaded: None }
    }

    /// Whether it is what is left of a cold start or of a burst, and will soon be gone by itself.
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
    /// Between two requests that workers take.
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

        /// For so long a request is taken at every step, while the oldest has waited for so long. Says whether it is overloaded then.
        fn goes_on(&mut self, long: Duration, waited: Duration) -> bool {
            let end = self.now + long;
            while self.now < end {
                self.now += STEP;
                self.codel.look(self.now, waited, self.median, || self.pool_grows);
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
    fn it_is_over_when_the_queue_is_empty_or_nobody_was_refused_for_an_interval() {
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
    fn one_that_learns_is_not_overloaded_until_clients_give_up() {
        let mut story = Story::with(Bounds { learns: true, ..BOUNDS });
        story.codel.gave_up();
        assert!(!story.goes_on(BOUNDS.interval * 60, 500 * MS), "all of them wait");
        // 100 a second are served: one in 20 is not many, and neither are three.
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
    fn what_it_has_learned_it_remembers_for_a_while() {
        let mut story = Story::with(Bounds { learns: true, ..BOUNDS });
        story.goes_on(STEP, 500 * MS);
        (0..50).for_each(|_| story.codel.gave_up());
        // Nobody gives up while the oldest are refused, however long.
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
    }

    #[test]
    fn a_pause_ends_an_overload_before_anybody_is_refused_for_it() {
        let mut story = Story::new();
        assert!(story.goes_on(BOUNDS.interval + STEP, 200 * MS));
        assert!(story.codel.may_refuse(story.now + BOUNDS.interval, || false));
        assert!(!story.codel.may_refuse(story.now + BOUNDS.interval + STEP, || false));
        assert!(!story.codel.is_overloaded());
    }

    #[test]
    fn workers_on_their_way_excuse_it_but_not_for_ever() {
        let mut story = Story::new();
        story.pool_grows = true;
        assert!(!story.goes_on(MAX_EXCUSE, 200 * MS));
        assert!(story.goes_on(BOUNDS.interval * 2, 200 * MS));
        // A reload while it is overloaded.
        story.pool_grows = false;
        assert!(story.goes_on(STEP, 200 * MS));
        assert!(!story.codel.may_refuse(story.now, || true));
        assert!(!story.codel.is_overloaded());
        assert!(!story.goes_on(BOUNDS.interval, 200 * MS), "an interval from its end");
    }

    #[test]
    fn a_refused_client_may_return_when_those_refused_of_late_could_be_served() {
        let mut story = Story::new();
        assert!(story.goes_on(BOUNDS.interval + STEP, 200 * MS));
        // 100 a second are served, and as many refused.
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
