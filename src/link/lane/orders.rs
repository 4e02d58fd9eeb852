//! The lane under every order of its memory accesses that the memory model of C11 allows, by a model checker (loom).

use std::sync::atomic::Ordering;

use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, fence};
use loom::thread;

use super::layout::Sizes;
use super::word::{Word, word};
use super::{GatewayLane, WorkerLane};

const SIZES: Sizes = Sizes { requests: 2, request_words: 2, response_words: 6 };

word!(AtomicU64, fence);

/// A memory that two threads own, as two processes do theirs.
#[derive(Clone)]
struct Memory(Arc<Vec<AtomicU64>>);

impl std::ops::Deref for Memory {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        &self.0
    }
}

fn lane() -> (GatewayLane<Memory>, WorkerLane<Memory>) {
    let memory = Memory(Arc::new((0..SIZES.words()).map(|_| AtomicU64::new(0)).collect()));
    (GatewayLane::with_sizes(memory.clone(), SIZES), WorkerLane::with_sizes(memory, SIZES))
}

fn check(test: impl Fn() + Send + Sync + 'static) {
    let mut model = Builder::new();
    // Enough for the races here, each of which takes two; without a bound the number of orders explodes.
    model.preemption_bound = Some(3);
    model.check(test);
}

#[test]
fn a_request_is_claimed_whole_or_taken_back_and_never_both() {
    check(|| {
        let (mut gateway, worker) = lane();
        assert_eq!(gateway.push(b"request1"), Ok(true));
        let claims = thread::spawn(move || {
            let mut request = Vec::new();
            worker.claim(&mut request).then_some(request)
        });
        let taken_back = gateway.take_back().unwrap();
        // Takes the place of the one before where that was taken back.
        assert_eq!(gateway.push(b"request2"), Ok(true));
        let claimed = claims.join().unwrap();
        match (taken_back, claimed.as_deref()) {
            (false, Some(b"request1")) | (true, None | Some(b"request2")) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(gateway.is_claimed(), Ok(claimed.is_some()));
    });
}

#[test]
fn a_worker_that_goes_to_sleep_claims_the_request_or_is_woken() {
    check(|| {
        let (mut gateway, worker) = lane();
        let sleeps = thread::spawn(move || !worker.claim(&mut Vec::new()) && worker.sleep());
        assert_eq!(gateway.push(b"request"), Ok(true));
        GatewayLane::<Memory>::fence();
        let woken = gateway.take_sleeper();
        // Where it is not asleep yet, it sees the request, and claims it in its next turn.
        assert!(!sleeps.join().unwrap() || woken);
    });
}

#[test]
fn a_gateway_that_goes_to_sleep_sees_the_packet_or_is_woken() {
    check(|| {
        let (mut gateway, mut worker) = lane();
        gateway.wake();
        let woken = Arc::new(AtomicBool::new(false));
        let seen_by_worker = Arc::clone(&woken);
        let sends = thread::spawn(move || {
            assert!(worker.send(b"packet", || 7));
            seen_by_worker.store(worker.take_sleeper(), Ordering::Relaxed);
        });
        gateway.sleep();
        GatewayLane::<Memory>::fence();
        let seen = gateway.has_packet();
        sends.join().unwrap();
        assert!(seen || woken.load(Ordering::Relaxed));
        let mut buffer = [0; 8];
        assert_eq!(gateway.receive(&mut buffer), Ok(Some((6, 7))));
    });
}

#[test]
fn packets_come_whole_and_in_order_while_both_sides_run() {
    check(|| {
        let (mut gateway, mut worker) = lane();
        // Each takes half of the ring, so the third waits until the first is read.
        let sends = thread::spawn(move || {
            let mut sent = 0;
            for packet in [b"packet 1", b"packet 2", b"packet 3"] {
                sent += u32::from(sent < 3 && worker.send(packet, || 7));
            }
            sent
        });
        let mut received = 0;
        let mut receive = |gateway: &mut GatewayLane<Memory>| {
            let mut buffer = [0; 8];
            while let Some((length, _)) = gateway.receive(&mut buffer).unwrap() {
                received += 1;
                assert_eq!(
                    (length, buffer),
                    (8, *format!("packet {received}").as_bytes().first_chunk().unwrap())
                );
            }
        };
        receive(&mut gateway);
        let sent = sends.join().unwrap();
        receive(&mut gateway);
        assert!(sent >= 2 && received == sent, "{sent} sent, {received} received");
    });
}

#[test]
fn the_memory_of_an_answered_request_is_used_again_only_after_the_worker_has_read_it() {
    check(|| {
        let (mut gateway, mut worker) = lane();
        assert_eq!(gateway.push(b"request1"), Ok(true));
        let answers = thread::spawn(move || {
            let mut request = Vec::new();
            assert!(worker.claim(&mut request));
            assert!(worker.send(b"done", || 7));
            request
        });
        let mut buffer = [0; 8];
        if gateway.receive(&mut buffer).unwrap().is_some() {
            gateway.finish();
            assert_eq!(gateway.push(b"request2"), Ok(true));
        }
        assert_eq!(answers.join().unwrap(), b"request1");
    });
}
