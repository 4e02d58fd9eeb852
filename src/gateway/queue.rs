//! The queue of complete requests that wait for a worker: bounded in length and in age. Std only.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// First come, first served.
#[derive(Debug)]
pub(super) struct Queue<T> {
    /// Oldest first; the time is when the item came.
    items: VecDeque<(Instant, T)>,
    capacity: usize,
    max_age: Duration,
    /// When the first items could be taken: until then they did not age.
    opened: Option<Instant>,
}

impl<T> Queue<T> {
    /// An empty queue of at most `capacity` items, each at most `max_age` old.
    pub(super) fn new(capacity: usize, max_age: Duration) -> Self {
        Self { items: VecDeque::new(), capacity, max_age, opened: None }
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// How many may.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many came at `time` or before.
    pub(super) fn came_before(&self, time: Instant) -> usize {
        self.items.partition_point(|(came, _)| *came <= time)
    }

    /// When the item that has waited longest came.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.items.front().map(|(came, _)| *came)
    }

    /// Other bounds; what waits already stays.
    pub(super) fn set_bounds(&mut self, capacity: usize, max_age: Duration) {
        (self.capacity, self.max_age) = (capacity, max_age);
    }

    /// Items can be taken from now on, and age.
    pub(super) fn open(&mut self, now: Instant) {
        self.opened = Some(now);
    }

    /// Whether no further item is let in.
    pub(super) fn is_full(&self) -> bool {
        self.items.len() >= self.capacity
    }

    /// Appends an item; gives it back where the queue is full.
    pub(super) fn push(&mut self, now: Instant, item: T) -> Result<(), T> {
        if self.is_full() {
            return Err(item);
        }
        self.items.push_back((now, item));
        Ok(())
    }

    /// Puts an item back that a worker could not take. It has waited since `came` and goes first; the
    /// capacity does not count for it, since it was let in before.
    pub(super) fn put_back(&mut self, came: Instant, item: T) {
        self.items.push_front((came, item));
    }

    /// The item that has waited longest, with the time it came.
    pub(super) fn pop(&mut self) -> Option<(Instant, T)> {
        self.items.pop_front()
    }

    /// Takes out one item that has waited longer than it may.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<T> {
        let expired = self.next_expiry().is_some_and(|expiry| expiry <= now);
        if expired { self.items.pop_front().map(|(_, item)| item) } else { None }
    }

    /// When the oldest item expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.oldest().map(|came| self.opened.map_or(came, |opened| came.max(opened)) + self.max_age)
    }

    /// Drops every item that `keep` refuses.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.items.retain(|(_, item)| keep(item));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_bounded_and_first_in_first_out() {
        let now = Instant::now();
        let mut queue = Queue::new(2, Duration::from_secs(10));
        assert_eq!(queue.push(now, 'a'), Ok(()));
        assert_eq!(queue.push(now, 'b'), Ok(()));
        assert_eq!(queue.push(now, 'c'), Err('c'));
        queue.put_back(now, 'z');
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, item)| item).collect();
        assert_eq!(order, ['z', 'a', 'b']);
    }

    #[test]
    fn gives_up_items_at_their_age_and_not_before() {
        let now = Instant::now();
        let mut queue = Queue::new(8, Duration::from_secs(10));
        queue.push(now, 'a').unwrap();
        queue.push(now + Duration::from_secs(1), 'b').unwrap();
        assert_eq!(queue.pop_expired(now + Duration::from_millis(9_999)), None);
        assert_eq!(queue.pop_expired(now + Duration::from_secs(10)), Some('a'));
        assert_eq!(queue.pop_expired(now + Duration::from_secs(10)), None);
        assert_eq!(queue.next_expiry(), Some(now + Duration::from_secs(11)));
    }

    #[test]
    fn what_came_before_anybody_could_have_it_ages_from_then_on() {
        let now = Instant::now();
        let mut queue = Queue::new(8, Duration::from_secs(10));
        queue.push(now, 'a').unwrap();
        queue.open(now + Duration::from_secs(60));
        assert_eq!(queue.next_expiry(), Some(now + Duration::from_secs(70)));
        queue.pop();
        queue.push(now + Duration::from_secs(61), 'b').unwrap();
        assert_eq!(queue.next_expiry(), Some(now + Duration::from_secs(71)));
    }
}
