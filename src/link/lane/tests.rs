//! The lane as both sides use it, and the gateway's side beside a worker that writes anything anywhere.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;

type Memory = Rc<Vec<AtomicU64>>;

/// A memory that both sides hold.
#[derive(Clone)]
struct Shared(Memory);

impl std::ops::Deref for Shared {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        &self.0
    }
}

fn lane() -> (GatewayLane<Shared>, WorkerLane<Shared>, Memory) {
    let memory: Memory = Rc::new((0..WORDS).map(|_| AtomicU64::new(0)).collect());
    (GatewayLane::new(Shared(Rc::clone(&memory))), WorkerLane::new(Shared(Rc::clone(&memory))), memory)
}

fn claim(worker: &WorkerLane<Shared>) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    worker.claim(&mut request).then_some(request)
}

fn receive(gateway: &mut GatewayLane<Shared>) -> Result<Option<Vec<u8>>, Corrupt> {
    let mut buffer = vec![0; MAX_LANE_PACKET];
    Ok(gateway.receive(&mut buffer)?.map(|(length, _)| buffer[..length].to_vec()))
}

#[test]
fn requests_are_claimed_in_order_and_the_last_is_taken_back_first() {
    let (mut gateway, worker, _) = lane();
    assert_eq!((gateway.take_back(), gateway.is_claimed()), (Ok(false), Ok(false)));
    for request in ["one", "two", "three"] {
        assert_eq!(gateway.push(request.as_bytes()), Ok(true));
    }
    assert_eq!(gateway.is_claimed(), Ok(false));
    assert_eq!(claim(&worker).as_deref(), Some(&b"one"[..]));
    assert_eq!((gateway.take_back(), gateway.len(), gateway.is_claimed()), (Ok(true), 2, Ok(true)));
    assert_eq!(gateway.push(b"four"), Ok(true));
    gateway.finish();
    assert_eq!((gateway.len(), gateway.is_claimed()), (2, Ok(false)));
    assert_eq!(claim(&worker).as_deref(), Some(&b"two"[..]));
    assert_eq!(claim(&worker).as_deref(), Some(&b"four"[..]));
    assert_eq!((claim(&worker), gateway.take_back()), (None, Ok(false)));
}

#[test]
fn a_full_lane_takes_no_request_until_one_is_done() {
    let (mut gateway, worker, _) = lane();
    assert_eq!(gateway.push(&[0; MAX_LANE_REQUEST + 1]), Ok(false), "too long");
    (0..MAX_REQUESTS).for_each(|_| assert_eq!(gateway.push(b"small"), Ok(true)));
    assert_eq!(gateway.push(b"small"), Ok(false));
    claim(&worker).unwrap();
    assert_eq!(gateway.push(b"small"), Ok(false), "its memory is read still");
    gateway.finish();
    assert_eq!(gateway.push(b"small"), Ok(true));
    let (mut gateway, ..) = lane();
    assert_eq!([(); 3].map(|()| gateway.push(&[1; MAX_LANE_REQUEST])), [Ok(true), Ok(true), Ok(false)]);
}

#[test]
fn packets_and_those_of_the_socket_keep_their_order() {
    let (mut gateway, mut worker, _) = lane();
    assert!(worker.send(b"first", || 7));
    worker.socket_packet_sent();
    assert!(worker.send(b"third", || 7));
    assert_eq!(receive(&mut gateway), Ok(Some(b"first".to_vec())));
    assert_eq!(
        (receive(&mut gateway), gateway.has_packet()),
        (Ok(None), false),
        "the second is in the socket"
    );
    gateway.socket_packet_received();
    assert_eq!(receive(&mut gateway), Ok(Some(b"third".to_vec())));
    // A packet on the socket that no intact worker has sent.
    gateway.socket_packet_received();
    assert!(worker.send(b"late", || 7) && receive(&mut gateway).is_err());
}

#[test]
fn a_full_lane_takes_no_packet_until_one_is_read() {
    let (mut gateway, mut worker, _) = lane();
    assert!(!worker.send(&[0; MAX_LANE_PACKET + 1], || 7), "too long");
    let sent = (0..).take_while(|_| worker.send(&[7; MAX_LANE_PACKET], || 7)).count();
    assert_eq!(sent, 3);
    assert_eq!(receive(&mut gateway).unwrap().unwrap(), [7; MAX_LANE_PACKET]);
    assert!(worker.send(&[8; MAX_LANE_PACKET], || 7) && !worker.send(&[8; MAX_LANE_PACKET], || 7));
}

#[test]
fn nothing_is_received_that_was_written_after_the_workers_end() {
    let (mut gateway, mut worker, _) = lane();
    assert!(worker.send(b"last", || 7));
    gateway.close();
    assert!(worker.send(b"of its child", || 7));
    gateway.close();
    assert_eq!(receive(&mut gateway), Ok(Some(b"last".to_vec())));
    assert!(receive(&mut gateway) == Ok(None) && !gateway.has_packet());
}

#[test]
fn an_empty_packet_is_no_packet_of_an_intact_worker() {
    let (mut gateway, mut worker, _) = lane();
    assert!(worker.send(b"", || 7));
    assert_eq!(receive(&mut gateway), Err(Corrupt("an empty packet")));
}

#[test]
fn a_side_that_sleeps_is_woken_once() {
    let (mut gateway, mut worker, _) = lane();
    assert!(worker.sleep());
    assert_eq!(gateway.push(b"request"), Ok(true));
    assert!(gateway.take_sleeper() && !gateway.take_sleeper());
    assert!(!worker.sleep() && !gateway.take_sleeper(), "it has a request");
    assert!(worker.send(b"packet", || 7));
    assert_eq!(gateway.receive(&mut vec![0; MAX_LANE_PACKET]), Ok(Some((6, 7))));
    assert!(worker.take_sleeper() && !worker.take_sleeper(), "a new lane is not polled");
    gateway.sleep();
    gateway.wake();
    assert!(!worker.take_sleeper());
    assert!(!worker.wants_batch());
    gateway.set_batch(true);
    gateway.order_sent();
    assert!(worker.wants_batch() && worker.orders() == 1);
}

/// What a worker or the gateway does.
#[derive(Clone, Copy, Debug)]
enum Act {
    Push(u16),
    TakeBack,
    Finish,
    Claim,
    Send(u16),
    Receive,
    Write(u16, u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        any::<u16>().prop_map(|length| Act::Push(length % 20_000)),
        Just(Act::TakeBack),
        Just(Act::Finish),
        Just(Act::Claim),
        any::<u16>().prop_map(|length| Act::Send(length % 20_000)),
        Just(Act::Receive),
        // Mostly the words that control the lane.
        (prop_oneof![Just(0_u16), Just(64), Just(80), 0..112_u16, any::<u16>()], any::<u64>())
            .prop_map(|(word, value)| Act::Write(word, value)),
    ]
}

proptest! {
    #[test]
    fn the_gateway_survives_a_worker_that_writes_anything(acts in prop::collection::vec(act(), 0..200)) {
        let (mut gateway, mut worker, memory) = lane();
        let mut intact = true;
        for act in acts {
            match act {
                Act::Push(length) => {
                    let pushed = gateway.push(&vec![1; usize::from(length)]);
                    prop_assert!(pushed.is_ok() || !intact);
                }
                Act::TakeBack => {
                    let taken = gateway.take_back();
                    prop_assert!(taken.is_ok() || !intact);
                }
                // The gateway does so where a packet says it, which an intact worker sends after its claim.
                Act::Finish => if !gateway.is_empty() && (!intact || gateway.is_claimed() == Ok(true)) {
                    gateway.finish();
                },
                Act::Claim if intact => drop(claim(&worker)),
                Act::Send(length) if intact => drop(worker.send(&vec![2; usize::from(length)], || 7)),
                Act::Claim | Act::Send(_) => {}
                Act::Receive => match receive(&mut gateway) {
                    Ok(packet) => prop_assert!(packet.is_none_or(|packet| packet.len() <= MAX_LANE_PACKET)),
                    Err(_) => prop_assert!(!intact),
                },
                Act::Write(word, value) => {
                    intact = false;
                    memory[usize::from(word) % WORDS].store(value, Ordering::Relaxed);
                }
            }
            prop_assert!(gateway.len() <= MAX_REQUESTS);
        }
    }
}
