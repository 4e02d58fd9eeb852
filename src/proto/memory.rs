//! The memory budget of all clients' requests and responses together (`--buffer-memory`). Std only; told the sizes.
//!
//! A connection and a request hold a [`Share`] each, whose size is set where bytes come or go. New requests may use
//! [`PART_FOR_NEW`] of the whole, so that requests that were let in have room for the rest of their bodies.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The part of the memory for new requests, in eighths.
const PART_FOR_NEW: u64 = 7;

/// The part up to which bodies stay in memory, in eighths. Further bodies go to files, so that there is room for new requests, and for
/// bytes on their way to a file.
const PART_FOR_BODIES: u64 = 6;

/// Divisor of the whole: the part up to which responses go to files that are memory. So slow readers refuse no request.
const PART_FOR_ANSWERS: u64 = 2;

/// Bytes in use that are worth being given back to the system once they are free.
pub(crate) const MUCH: u64 = 16 << 20;

/// Bytes of unfinished requests that a connection may hold uncounted. So an ordinary request is read whole, and
/// is answered with 503 or, for the health and the status, with 200, also where no memory is left.
pub(crate) const FREE_OF_A_CONNECTION: usize = 4096;

/// The memory budget, in bytes. Only the gateway's thread takes of it; a spooled file that ends in another thread gives back.
#[derive(Debug)]
pub(crate) struct Memory {
    bound: AtomicU64,
    used: AtomicU64,
    /// The most that was in use since [`Memory::forget_highest`].
    highest: AtomicU64,
    /// Called when the use comes to [`MUCH`].
    told: Told,
}

#[derive(Default)]
struct Told(OnceLock<Box<dyn Fn() + Send + Sync>>);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}

/// Purpose of bytes, which decides how much of the budget they may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// Requests whose parameters are on their way or have just come.
    New,
    /// Bodies that stay in memory, where a file would do.
    Bodies,
    /// Bodies of requests that were let in.
    LetIn,
    /// Answers of slow clients, in files that are memory. Without such a file an answer waits with its worker.
    Answers,
}

impl Memory {
    pub(crate) fn new(bound: u64) -> Arc<Self> {
        Arc::new(Self {
            bound: AtomicU64::new(bound),
            used: AtomicU64::new(0),
            highest: AtomicU64::new(0),
            told: Told::default(),
        })
    }

    /// A reload may have changed it. What is in use stays.
    pub(crate) fn set_bound(&self, bound: u64) {
        self.bound.store(bound, Ordering::Relaxed);
    }

    /// Bytes that there may be.
    pub(crate) fn bound(&self) -> u64 {
        self.bound.load(Ordering::Relaxed)
    }

    /// Bytes that are in use. More than the bound where answers wait for slow clients.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether there is room for so many bytes more.
    pub(crate) fn has_room(&self, bytes: u64, purpose: For) -> bool {
        let bound = self.bound();
        let most = match purpose {
            For::New => bound / 8 * PART_FOR_NEW,
            For::Bodies => bound / 8 * PART_FOR_BODIES,
            For::LetIn => bound,
            For::Answers => bound / PART_FOR_ANSWERS,
        };
        self.used().saturating_add(bytes) <= most
    }

    /// Takes bytes, room or not.
    pub(crate) fn take(&self, bytes: u64) {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let highest = self.highest.load(Ordering::Relaxed);
        if used > highest {
            self.highest.store(used, Ordering::Relaxed);
            if used >= MUCH
                && highest < MUCH
                && let Some(tell) = self.told.0.get()
            {
                tell();
            }
        }
    }

    /// Calls `tell`, in any thread, once [`MUCH`] is in use, and once more after each [`Self::forget_highest`].
    pub(crate) fn when_much(&self, tell: impl Fn() + Send + Sync + 'static) {
        // A second one is not wanted.
        let _ = self.told.0.set(Box::new(tell));
    }

    /// Bytes that are in use, and the most that were since [`Self::forget_highest`].
    pub(crate) fn used_and_highest(&self) -> (u64, u64) {
        (self.used(), self.highest.load(Ordering::Relaxed))
    }

    /// The highest use begins anew with what is in use now.
    pub(crate) fn forget_highest(&self) {
        self.highest.store(self.used(), Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A connection's or a request's part of the memory, which it gives back when it ends.
#[derive(Debug)]
pub(crate) struct Share {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Share {
    pub(crate) fn new(memory: &Arc<Memory>) -> Self {
        Self { memory: Arc::clone(memory), bytes: 0 }
    }

    /// Makes it so large if it shrinks or there is room. Says whether it did.
    pub(crate) fn resize(&mut self, bytes: usize, purpose: For) -> bool {
        let more = (bytes as u64).saturating_sub(self.bytes);
        let fits = more == 0 || self.memory.has_room(more, purpose);
        if fits {
            self.set(bytes);
        }
        fits
    }

    /// Makes it so large, room or not: what is there already counts.
    pub(crate) fn set(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        if bytes > self.bytes {
            self.memory.take(bytes - self.bytes);
        } else if bytes < self.bytes {
            self.memory.give_back(self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_requests_leave_an_eighth_to_those_that_were_let_in() {
        let memory = Memory::new(800);
        let (mut new, mut old) = (Share::new(&memory), Share::new(&memory));
        assert!(new.resize(700, For::New) && !new.resize(701, For::New));
        assert!(old.resize(100, For::LetIn) && !old.resize(101, For::LetIn));
        assert_eq!(memory.used(), 800);
        // Whatever is in use, one that shrinks does.
        assert!(new.resize(690, For::New) && !new.resize(691, For::New) && old.resize(110, For::LetIn));
        drop((new, old));
        assert_eq!(memory.used_and_highest(), (0, 800));
        memory.forget_highest();
        assert_eq!(memory.used_and_highest(), (0, 0));
    }

    #[test]
    fn much_in_use_is_told_once_until_it_is_forgotten() {
        let (memory, times) = (Memory::new(u64::MAX), Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&times);
        memory.when_much(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let told = || times.load(Ordering::Relaxed);
        memory.take(MUCH - 1);
        assert_eq!(told(), 0);
        memory.take(1);
        memory.take(MUCH);
        memory.give_back(2 * MUCH);
        memory.take(MUCH);
        assert_eq!(told(), 1);
        memory.give_back(MUCH);
        memory.forget_highest();
        memory.take(MUCH);
        assert_eq!(told(), 2);
    }

    #[test]
    fn bodies_go_to_files_before_new_requests_are_refused() {
        let memory = Memory::new(800);
        memory.take(590);
        assert!(memory.has_room(10, For::Bodies) && !memory.has_room(11, For::Bodies));
        assert!(memory.has_room(100, For::New));
    }

    #[test]
    fn answers_in_memory_leave_half_of_it_to_requests() {
        let memory = Memory::new(800);
        memory.take(300);
        assert!(memory.has_room(100, For::Answers) && !memory.has_room(101, For::Answers));
        assert!(memory.has_room(400, For::New));
    }

    #[test]
    fn what_is_there_already_counts_beyond_the_bound_and_keeps_others_out() {
        let memory = Memory::new(800);
        let (mut answer, mut new) = (Share::new(&memory), Share::new(&memory));
        answer.set(5000);
        assert!(!new.resize(1, For::New) && !new.resize(1, For::LetIn) && new.resize(0, For::New));
        answer.set(10);
        assert!(new.resize(1, For::New));
    }

    #[test]
    fn a_bound_that_is_lowered_takes_nothing_away() {
        let memory = Memory::new(800);
        let mut share = Share::new(&memory);
        assert!(share.resize(600, For::New));
        memory.set_bound(80);
        assert!(share.resize(600, For::New) && !share.resize(601, For::LetIn) && share.resize(599, For::New));
        assert_eq!((memory.used(), memory.bound()), (599, 80));
    }

    #[test]
    fn no_sum_overflows() {
        let memory = Memory::new(u64::MAX);
        memory.take(u64::MAX - 1);
        assert!(memory.has_room(1, For::LetIn) && !memory.has_room(u64::MAX, For::New));
    }
}
