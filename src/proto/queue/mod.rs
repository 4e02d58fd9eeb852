//! The queue of complete requests that wait for a worker, bounded in length and in age. Reads no clock.
//!
//! Two lines: requests that the proxy has marked go before all others. Within a line the oldest is next, or the newest while
//! the line is overloaded (see [`codel`]).

mod codel;
#[cfg(test)]
mod simulation_tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub(crate) use crate::proto::queue::codel::Bounds;
use crate::proto::queue::codel::Codel;

/// A request's place in the queue. Kept for the request's life, so that it can be taken out and put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Number of the request, in the order of arrival.
    number: u64,
    /// Time at which the request arrived.
    came: Instant,
    /// Time since which the client has waited: before the arrival, if the proxy says so.
    started: Instant,
    /// Index of the line.
    line: usize,
}

/// Indexes of the lines: marked requests, and all others.
const MARKED: usize = 0;
const OTHERS: usize = 1;

/// An item that the full queue rejected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rejected<T> {
    pub(crate) item: T,
    /// `Retry-After` of an item that leaves for a newer one because the line is overloaded.
    pub(crate) overload: Option<Duration>,
}

#[derive(Debug)]
struct Line<T> {
    /// Items, the oldest first.
    items: VecDeque<(Place, T)>,
    /// Overload detection; `None` where the line is always first come, first served.
    codel: Option<Codel>,
}

#[derive(Debug)]
pub(crate) struct Queue<T> {
    lines: [Line<T>; 2],
    /// Number of the next item.
    number: u64,
    capacity: usize,
    max_age: Duration,
    /// Time from which items can be taken. They do not age before.
    opened: Option<Instant>,
}

impl<T> Queue<T> {
    /// An empty queue of at most `capacity` items, each at most `max_age` old. Never overloaded without `bounds`.
    pub(crate) fn new(capacity: usize, max_age: Duration, bounds: Option<Bounds>) -> Self {
        let line = || Line { items: VecDeque::new(), codel: bounds.map(Codel::new) };
        Self { lines: [line(), line()], number: 0, capacity, max_age, opened: None }
    }

    /// Replaces the bounds. Waiting items stay.
    pub(crate) fn set_bounds(&mut self, capacity: usize, max_age: Duration, bounds: Option<Bounds>) {
        (self.capacity, self.max_age) = (capacity, max_age);
        for line in &mut self.lines {
            match (&mut line.codel, bounds) {
                (Some(codel), Some(bounds)) => codel.set_bounds(bounds),
                (codel, bounds) => *codel = bounds.map(Codel::new),
            }
        }
    }

    /// Opens the queue: items can be taken, and age, from now on.
    pub(crate) fn open(&mut self, now: Instant) {
        self.opened = Some(now);
    }

    // The state.

    /// Whether no item waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.items.is_empty())
    }

    /// Number of waiting items.
    pub(crate) fn len(&self) -> usize {
        self.lines.iter().map(|line| line.items.len()).sum()
    }

    /// Most items that may wait.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether the queue is at its capacity.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    /// Whether a line is overloaded, so that its oldest items are refused.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.lines.iter().any(Line::is_overloaded)
    }

    /// Number of items that arrived at `time` or before.
    pub(crate) fn came_before(&self, time: Instant) -> usize {
        self.lines.iter().map(|line| line.items.partition_point(|(place, _)| place.came <= time)).sum()
    }

    /// Arrival of the item that has waited longest.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.lines.iter().filter_map(|line| Some(line.items.front()?.0.came)).min()
    }

    // Arrival and departure.

    /// The place of an item that arrives now. Its client had waited for `head_start` before; `marked` puts it in the first
    /// line.
    pub(crate) fn place(&mut self, came: Instant, head_start: Duration, marked: bool) -> Place {
        self.number += 1;
        let started = came.checked_sub(head_start).unwrap_or(came);
        Place { number: self.number, came, started, line: if marked { MARKED } else { OTHERS } }
    }

    /// Appends an item. A full queue rejects one item: the oldest of an overloaded line, the newest of the other line for a
    /// marked item, or else the item itself.
    pub(crate) fn push(&mut self, place: Place, item: T, now: Instant) -> Option<Rejected<T>> {
        let mut rejected = None;
        if self.is_full() {
            let overloaded = self.lines[place.line..].iter_mut().rev().find(|line| line.is_overloaded());
            if let Some((item, retry)) = overloaded.and_then(|line| line.refuse_oldest(now)) {
                rejected = Some(Rejected { item, overload: Some(retry) });
            } else if place.line == MARKED
                && let Some((_, item)) = self.lines[OTHERS].items.pop_back()
            {
                rejected = Some(Rejected { item, overload: None });
            } else {
                return Some(Rejected { item, overload: None });
            }
        }
        self.lines[place.line].items.push_back((place, item));
        rejected
    }

    /// Puts an item back in its place after a failed dispatch. Exempt from the capacity, because the item was admitted before.
    pub(crate) fn requeue(&mut self, place: Place, item: T) {
        let line = &mut self.lines[place.line];
        let index = line.index_of(place.number);
        line.items.insert(index, (place, item));
    }

    /// Removes the item at this place, if it waits, because its client has given up.
    pub(crate) fn give_up(&mut self, place: Place) -> Option<T> {
        let line = &mut self.lines[place.line];
        let index = line.index_of(place.number);
        line.items.get(index).filter(|(other, _)| other.number == place.number)?;
        let (_, item) = line.items.remove(index)?;
        line.note_gave_up();
        Some(item)
    }

    /// Notes that a client left while its request ran, dispatched at `dispatched_at`. A wait longer than the run counts as given up
    /// because of the queue: most clients near the end of their patience are at its front.
    pub(crate) fn left_while_it_ran(&mut self, place: Place, dispatched_at: Instant, now: Instant) {
        let waited = dispatched_at.saturating_duration_since(place.started);
        if waited > now.saturating_duration_since(dispatched_at)
            && let Some(codel) = &mut self.lines[place.line].codel
        {
            codel.gave_up();
        }
    }

    /// Takes the next item for a worker. `median` is the median of the recent service times; `pool_grows` returns whether
    /// additional workers are starting.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        median: Duration,
        pool_grows: impl Fn() -> bool,
    ) -> Option<(Place, T)> {
        let opened = self.opened;
        for line in &mut self.lines {
            if let (Some(codel), Some((place, _))) = (&mut line.codel, line.items.front()) {
                let since = opened.map_or(place.started, |opened| place.started.max(opened));
                codel.update(now, now.saturating_duration_since(since), median, &pool_grows);
            }
        }
        let line = self.lines.iter_mut().find(|line| !line.items.is_empty())?;
        let taken = if line.is_overloaded() { line.items.pop_back() } else { line.items.pop_front() };
        line.note_whether_empty();
        taken
    }

    /// Takes an item that no worker will get, the oldest of the first line with any.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let line = self.lines.iter_mut().find(|line| !line.items.is_empty())?;
        let (_, item) = line.items.pop_front()?;
        line.note_whether_empty();
        Some(item)
    }

    // Expiry and refusal.

    /// Time at which the next item expires.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.lines.iter().filter_map(|line| Some(self.expiry(line.items.front()?.0))).min()
    }

    /// Time at which the next item of an overloaded line is to be refused.
    pub(crate) fn next_refusal(&self) -> Option<Instant> {
        self.lines.iter().filter_map(Line::refusal_due).min()
    }

    /// Takes an item that has reached its age limit.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<T> {
        let expired =
            |line: &Line<T>| line.items.front().is_some_and(|(place, _)| self.expiry(*place) <= now);
        let index = self.lines.iter().position(expired)?;
        let (_, item) = self.lines[index].items.pop_front()?;
        self.lines[index].note_gave_up();
        Some(item)
    }

    /// Takes an item to be refused because its line is overloaded, with its `Retry-After`.
    pub(crate) fn pop_refused(
        &mut self,
        now: Instant,
        pool_grows: impl Fn() -> bool,
    ) -> Option<(T, Duration)> {
        let due = |line: &&mut Line<T>| line.refusal_due().is_some_and(|due| due <= now);
        let line = self.lines.iter_mut().find(due)?;
        if line.codel.as_mut().is_some_and(|codel| codel.may_refuse(now, pool_grows)) {
            line.refuse_oldest(now)
        } else {
            None
        }
    }

    fn expiry(&self, place: Place) -> Instant {
        self.opened.map_or(place.came, |opened| place.came.max(opened)) + self.max_age
    }
}

impl<T> Line<T> {
    fn is_overloaded(&self) -> bool {
        self.codel.as_ref().is_some_and(Codel::is_overloaded)
    }

    /// Time at which the line's oldest item is to be refused.
    fn refusal_due(&self) -> Option<Instant> {
        self.codel.as_ref()?.refusal_due(self.items.front()?.0.started)
    }

    fn refuse_oldest(&mut self, now: Instant) -> Option<(T, Duration)> {
        let (_, item) = self.items.pop_front()?;
        let retry = self.codel.as_mut()?.refused(now, self.items.len());
        self.note_whether_empty();
        Some((item, retry))
    }

    /// Index of the item with this number, or of its place.
    fn index_of(&self, number: u64) -> usize {
        self.items.partition_point(|(place, _)| place.number < number)
    }

    fn note_gave_up(&mut self) {
        if let Some(codel) = &mut self.codel {
            codel.gave_up();
        }
        self.note_whether_empty();
    }

    fn note_whether_empty(&mut self) {
        if let Some(codel) = self.codel.as_mut().filter(|_| self.items.is_empty()) {
            codel.emptied();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const BOUNDS: Bounds =
        Bounds { target: Duration::from_millis(100), interval: Duration::from_secs(1), learns: false };

    fn queue(capacity: usize, bounds: Option<Bounds>) -> (Queue<char>, Instant) {
        (Queue::new(capacity, Duration::from_secs(10), bounds), Instant::now())
    }

    fn push(queue: &mut Queue<char>, now: Instant, item: char) -> (Place, Option<Rejected<char>>) {
        let place = queue.place(now, Duration::ZERO, item.is_ascii_uppercase());
        (place, queue.push(place, item, now))
    }

    fn take(queue: &mut Queue<char>, now: Instant) -> Option<char> {
        queue.take(now, MS, || false).map(|(_, item)| item)
    }

    fn rest(queue: &mut Queue<char>) -> String {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    /// Takes an item every 50 ms and pushes two, until the queue is overloaded. Lower-case letters have arrived before.
    fn overload(queue: &mut Queue<char>, start: Instant) -> Instant {
        let mut now = start;
        while !queue.is_overloaded() {
            assert!(now < start + BOUNDS.interval * 3, "it never is");
            ['x', 'x'].into_iter().for_each(|item| {
                push(queue, now, item);
            });
            now += 50 * MS;
            take(queue, now);
        }
        now
    }

    #[test]
    fn the_queue_is_bounded_and_first_in_first_out() {
        let (mut queue, now) = queue(2, None);
        let (first, rejected) = push(&mut queue, now, 'a');
        assert_eq!(rejected, None);
        assert_eq!(push(&mut queue, now, 'b').1, None);
        assert_eq!(push(&mut queue, now, 'c').1, Some(Rejected { item: 'c', overload: None }));
        assert_eq!(take(&mut queue, now), Some('a'));
        push(&mut queue, now, 'd');
        queue.requeue(first, 'a');
        assert_eq!(rest(&mut queue), "abd");
    }

    #[test]
    fn items_expire_at_their_age_and_not_before() {
        let (mut queue, now) = queue(8, None);
        push(&mut queue, now, 'a');
        push(&mut queue, now + 1000 * MS, 'b');
        assert_eq!(queue.pop_expired(now + 9_999 * MS), None);
        assert_eq!(queue.pop_expired(now + 10_000 * MS), Some('a'));
        assert_eq!(queue.pop_expired(now + 10_000 * MS), None);
        assert_eq!(queue.next_expiry(), Some(now + 11_000 * MS));
    }

    #[test]
    fn items_age_from_the_opening_of_the_queue() {
        let (mut queue, now) = queue(8, Some(BOUNDS));
        push(&mut queue, now, 'a');
        queue.open(now + 60_000 * MS);
        assert_eq!(queue.next_expiry(), Some(now + 70_000 * MS));
        assert_eq!(take(&mut queue, now + 60_000 * MS), Some('a'));
        push(&mut queue, now + 61_000 * MS, 'b');
        assert_eq!(queue.next_expiry(), Some(now + 71_000 * MS));
    }

    #[test]
    fn an_item_that_leaves_in_the_middle_frees_its_place_and_no_other() {
        let (mut queue, now) = queue(8, None);
        let places: Vec<_> = "abcd".chars().map(|item| push(&mut queue, now, item).0).collect();
        assert_eq!(queue.give_up(places[1]), Some('b'));
        assert_eq!(queue.give_up(places[1]), None);
        assert_eq!(take(&mut queue, now), Some('a'));
        assert_eq!(queue.give_up(places[0]), None);
        assert_eq!((queue.len(), rest(&mut queue).as_str()), (2, "cd"));
    }

    #[test]
    fn marked_items_go_first_and_find_room() {
        let (mut queue, now) = queue(3, None);
        "abA".chars().for_each(|item| {
            push(&mut queue, now, item);
        });
        assert_eq!(push(&mut queue, now, 'B').1, Some(Rejected { item: 'b', overload: None }));
        assert_eq!(push(&mut queue, now, 'c').1, Some(Rejected { item: 'c', overload: None }));
        assert_eq!((queue.came_before(now), queue.oldest()), (3, Some(now)));
        assert_eq!((0..3).filter_map(|_| take(&mut queue, now)).collect::<String>(), "ABa");
    }

    #[test]
    fn an_overloaded_queue_serves_the_newest_and_refuses_the_oldest() {
        let (mut queue, now) = queue(64, Some(BOUNDS));
        let now = overload(&mut queue, now);
        let oldest = queue.oldest().unwrap();
        assert!(now - oldest > BOUNDS.target);
        assert_eq!(queue.next_refusal(), Some(oldest + BOUNDS.target));
        assert_eq!(queue.pop_refused(now, || false).map(|(item, _)| item), Some('x'));
        let (newest, _) = push(&mut queue, now, 'n');
        assert_eq!(take(&mut queue, now), Some('n'));
        // An item put back by a worker is the newest again.
        queue.requeue(newest, 'n');
        assert_eq!(take(&mut queue, now), Some('n'));
        while queue.pop_refused(now, || false).is_some() {}
        assert_eq!(queue.pop_refused(now, || false), None);
        assert!(queue.oldest().is_none_or(|oldest| now - oldest < BOUNDS.target));
    }

    #[test]
    fn a_full_overloaded_queue_has_room_for_the_newest() {
        let (mut queue, now) = queue(64, Some(BOUNDS));
        let now = overload(&mut queue, now);
        while !queue.is_full() {
            push(&mut queue, now, 'x');
        }
        let (_, rejected) = push(&mut queue, now, 'n');
        let rejected = rejected.expect("the oldest leaves");
        assert_eq!(rejected.item, 'x');
        assert!(rejected.overload.is_some());
        assert_eq!(take(&mut queue, now), Some('n'));
    }

    #[test]
    fn each_line_is_overloaded_by_itself() {
        let (mut queue, now) = queue(64, Some(BOUNDS));
        let now = overload(&mut queue, now);
        "AB".chars().for_each(|item| {
            push(&mut queue, now, item);
        });
        assert_eq!((take(&mut queue, now), take(&mut queue, now)), (Some('A'), Some('B')));
    }

    #[test]
    fn waiting_at_the_proxy_counts_but_not_for_the_queue_timeout() {
        let (mut queue, now) = queue(64, Some(BOUNDS));
        let now = overload(&mut queue, now);
        rest(&mut queue);
        let mut now = now;
        // Each item has waited for less than the target here, and for more with its head start.
        while !queue.is_overloaded() {
            for _ in 0..2 {
                let place = queue.place(now, BOUNDS.target, false);
                queue.push(place, 'p', now);
            }
            now += MS;
            take(&mut queue, now);
            queue.give_up(Place { number: queue.number - 1, came: now, started: now, line: OTHERS });
        }
        assert!(queue.next_refusal().is_some_and(|due| due <= now));
        assert_eq!(queue.pop_expired(now), None);
    }

    /// Four items wait at each take, each for 200 ms; `leaves` is told of each that is taken. Whether the queue, which learns, is
    /// overloaded within three intervals.
    fn is_overloaded_where(mut leaves: impl FnMut(&mut Queue<char>, Place, Instant)) -> bool {
        let (mut queue, start) = queue(64, Some(Bounds { learns: true, ..BOUNDS }));
        (0..60).any(|step| {
            let now = start + step * 50 * MS;
            push(&mut queue, now, 'x');
            if queue.len() > 4 {
                let (place, _) = queue.take(now, MS, || false).expect("an item");
                leaves(&mut queue, place, now);
            }
            queue.is_overloaded()
        })
    }

    #[test]
    fn clients_that_leave_or_expire_while_they_wait_make_an_overload_of_a_full_queue() {
        assert!(!is_overloaded_where(|_, _, _| {}), "all of them wait");
        assert!(is_overloaded_where(|queue, _, now| {
            let (place, _) = push(queue, now, 'y');
            assert_eq!(queue.give_up(place), Some('y'));
        }));
        assert!(is_overloaded_where(|queue, _, now| {
            let old = queue.place(now - 10_000 * MS, Duration::ZERO, false);
            queue.lines[OTHERS].items.push_front((old, 'y'));
            assert_eq!(queue.pop_expired(now), Some('y'));
        }));
    }

    #[test]
    fn a_client_that_leaves_while_its_request_runs_counts_where_it_had_waited_for_longer() {
        for (ran, overloaded) in [(199, true), (200, false), (201, false)] {
            let leaves = |queue: &mut Queue<char>, place, now| {
                queue.left_while_it_ran(place, now, now + ran * MS);
            };
            assert_eq!(is_overloaded_where(leaves), overloaded, "it ran for {ran} ms");
        }
    }

    #[test]
    fn the_queue_tells_its_length_and_capacity() {
        let (mut queue, now) = queue(2, None);
        assert!(queue.is_empty());
        push(&mut queue, now, 'a');
        assert!(!queue.is_empty() && !queue.is_full());
        push(&mut queue, now, 'A');
        assert_eq!((queue.len(), queue.capacity(), queue.is_full()), (2, 2, true));
        queue.set_bounds(3, Duration::from_secs(20), None);
        assert_eq!((queue.capacity(), queue.is_full()), (3, false));
        assert_eq!(queue.next_expiry(), Some(now + Duration::from_secs(20)));
    }

    #[test]
    fn new_bounds_keep_an_overload_and_change_its_target() {
        let (mut queue, now) = queue(64, Some(BOUNDS));
        overload(&mut queue, now);
        let target = 300 * MS;
        queue.set_bounds(64, Duration::from_secs(10), Some(Bounds { target, ..BOUNDS }));
        assert!(queue.is_overloaded());
        assert_eq!(queue.next_refusal(), queue.oldest().map(|oldest| oldest + target));
    }

    #[test]
    fn new_bounds_restore_first_come_first_served() {
        let (mut queue, now) = queue(64, Some(BOUNDS));
        let now = overload(&mut queue, now);
        queue.set_bounds(64, Duration::from_secs(10), None);
        assert!(!queue.is_overloaded());
        assert_eq!(queue.pop_refused(now + BOUNDS.interval, || false), None);
    }
}
