//! The memory budget of all requests and responses of clients together (`--buffer-memory`). Counts bytes, and allocates none.
//!
//! Each connection and each request holds a [`Share`], resized with its bytes. New requests may use [`PART_FOR_NEW`] of the
//! budget, so that admitted requests have room for the rest of their bodies.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The part of the budget for new requests, in eighths.
const PART_FOR_NEW: u64 = 7;

/// The part up to which bodies stay in memory, in eighths. Further bodies go to files. The rest is for new requests and for
/// bytes that are being written to a file.
const PART_FOR_BODIES: u64 = 6;

/// The divisor of the budget for responses in files on a tmpfs. So slow readers cause no refused request.
const PART_FOR_RESPONSES: u64 = 2;

/// Use, in bytes, from which on freed memory is worth returning to the system.
pub(crate) const HIGH_USE: u64 = 16 << 20;

/// Bytes of unfinished requests that each connection may hold outside the budget. So an ordinary request is read whole even if
/// no memory is left, and gets a 503, or a 200 for the health and the status.
pub(crate) const UNCOUNTED_PER_CONNECTION: usize = 4096;

/// The memory budget, in bytes. Only the gateway's thread takes bytes. A thread that closes a spool file may give bytes back.
#[derive(Debug)]
pub(crate) struct Memory {
    bound: AtomicU64,
    used: AtomicU64,
    /// The highest use since [`Memory::reset_peak`].
    peak: AtomicU64,
    /// The callback for a use of [`HIGH_USE`].
    on_high_use: HighUseCallback,
}

#[derive(Default)]
struct HighUseCallback(OnceLock<Box<dyn Fn() + Send + Sync>>);

impl fmt::Debug for HighUseCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HighUseCallback")
    }
}

/// The purpose of bytes. It decides how much of the budget they may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The parameters of a request that is not admitted yet.
    NewRequest,
    /// A body in memory that could be in a file.
    Body,
    /// The body of an admitted request.
    Admitted,
    /// A response to a slow client, in a file on a tmpfs. Without the file the worker waits for the client.
    Response,
}

impl Memory {
    pub(crate) fn new(bound: u64) -> Arc<Self> {
        Arc::new(Self {
            bound: AtomicU64::new(bound),
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            on_high_use: HighUseCallback::default(),
        })
    }

    /// Sets the bound, for a reload. Bytes in use stay.
    pub(crate) fn set_bound(&self, bound: u64) {
        self.bound.store(bound, Ordering::Relaxed);
    }

    /// The bound, in bytes.
    pub(crate) fn bound(&self) -> u64 {
        self.bound.load(Ordering::Relaxed)
    }

    /// The bytes in use. Exceeds the bound where responses wait for slow clients.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether the budget has room for `bytes` more.
    pub(crate) fn has_room(&self, bytes: u64, purpose: Purpose) -> bool {
        let bound = self.bound();
        let most = match purpose {
            Purpose::NewRequest => bound / 8 * PART_FOR_NEW,
            Purpose::Body => bound / 8 * PART_FOR_BODIES,
            Purpose::Admitted => bound,
            Purpose::Response => bound / PART_FOR_RESPONSES,
        };
        self.used().saturating_add(bytes) <= most
    }

    /// Takes bytes, even beyond the bound.
    pub(crate) fn take(&self, bytes: u64) {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let peak = self.peak.load(Ordering::Relaxed);
        if used > peak {
            self.peak.store(used, Ordering::Relaxed);
            if used >= HIGH_USE
                && peak < HIGH_USE
                && let Some(callback) = self.on_high_use.0.get()
            {
                callback();
            }
        }
    }

    /// Sets the callback for a use of [`HIGH_USE`]. It runs once, in any thread, and once more after each [`Self::reset_peak`].
    pub(crate) fn on_high_use(&self, callback: impl Fn() + Send + Sync + 'static) {
        // A second callback is ignored.
        let _ = self.on_high_use.0.set(Box::new(callback));
    }

    /// The bytes in use, and the highest use since [`Self::reset_peak`].
    pub(crate) fn used_and_peak(&self) -> (u64, u64) {
        (self.used(), self.peak.load(Ordering::Relaxed))
    }

    /// Resets the peak to the bytes in use now.
    pub(crate) fn reset_peak(&self) {
        self.peak.store(self.used(), Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The share of a connection or a request in the budget. Returned when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Share {
    pub(crate) fn new(memory: &Arc<Memory>) -> Self {
        Self { memory: Arc::clone(memory), bytes: 0 }
    }

    /// Resizes the share if it shrinks or the budget has room. Returns whether it did.
    pub(crate) fn resize(&mut self, bytes: usize, purpose: Purpose) -> bool {
        let more = (bytes as u64).saturating_sub(self.bytes);
        let fits = more == 0 || self.memory.has_room(more, purpose);
        if fits {
            self.set(bytes);
        }
        fits
    }

    /// Sets the size of the share, even beyond the bound, for bytes that are held already.
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
    fn new_requests_leave_an_eighth_to_admitted_ones() {
        let memory = Memory::new(800);
        let (mut new, mut old) = (Share::new(&memory), Share::new(&memory));
        assert!(new.resize(700, Purpose::NewRequest) && !new.resize(701, Purpose::NewRequest));
        assert!(old.resize(100, Purpose::Admitted) && !old.resize(101, Purpose::Admitted));
        assert_eq!(memory.used(), 800);
        // A share may shrink even where the budget is exceeded.
        assert!(
            new.resize(690, Purpose::NewRequest)
                && !new.resize(691, Purpose::NewRequest)
                && old.resize(110, Purpose::Admitted)
        );
        drop((new, old));
        assert_eq!(memory.used_and_peak(), (0, 800));
        memory.reset_peak();
        assert_eq!(memory.used_and_peak(), (0, 0));
    }

    #[test]
    fn high_use_is_reported_once_until_the_peak_is_reset() {
        let (memory, times) = (Memory::new(u64::MAX), Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&times);
        memory.on_high_use(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let reports = || times.load(Ordering::Relaxed);
        memory.take(HIGH_USE - 1);
        assert_eq!(reports(), 0);
        memory.take(1);
        memory.take(HIGH_USE);
        memory.give_back(2 * HIGH_USE);
        memory.take(HIGH_USE);
        assert_eq!(reports(), 1);
        memory.give_back(HIGH_USE);
        memory.reset_peak();
        memory.take(HIGH_USE);
        assert_eq!(reports(), 2);
    }

    #[test]
    fn bodies_go_to_files_before_new_requests_are_refused() {
        let memory = Memory::new(800);
        memory.take(590);
        assert!(memory.has_room(10, Purpose::Body) && !memory.has_room(11, Purpose::Body));
        assert!(memory.has_room(100, Purpose::NewRequest));
    }

    #[test]
    fn responses_in_memory_leave_half_of_it_to_requests() {
        let memory = Memory::new(800);
        memory.take(300);
        assert!(memory.has_room(100, Purpose::Response) && !memory.has_room(101, Purpose::Response));
        assert!(memory.has_room(400, Purpose::NewRequest));
    }

    #[test]
    fn bytes_beyond_the_bound_count_and_keep_new_requests_out() {
        let memory = Memory::new(800);
        let (mut response, mut new) = (Share::new(&memory), Share::new(&memory));
        response.set(5000);
        assert!(
            !new.resize(1, Purpose::NewRequest)
                && !new.resize(1, Purpose::Admitted)
                && new.resize(0, Purpose::NewRequest)
        );
        response.set(10);
        assert!(new.resize(1, Purpose::NewRequest));
    }

    #[test]
    fn a_bound_that_is_lowered_takes_nothing_away() {
        let memory = Memory::new(800);
        let mut share = Share::new(&memory);
        assert!(share.resize(600, Purpose::NewRequest));
        memory.set_bound(80);
        assert!(
            share.resize(600, Purpose::NewRequest)
                && !share.resize(601, Purpose::Admitted)
                && share.resize(599, Purpose::NewRequest)
        );
        assert_eq!((memory.used(), memory.bound()), (599, 80));
    }

    #[test]
    fn no_sum_overflows() {
        let memory = Memory::new(u64::MAX);
        memory.take(u64::MAX - 1);
        assert!(memory.has_room(1, Purpose::Admitted) && !memory.has_room(u64::MAX, Purpose::NewRequest));
    }
}
