//! The work of a worker for a small request, for `tests/instructions` to count: its loop, from the request in the lane to the response
//! there. Left out are sleep and wake-ups.

use std::hint::black_box;
use std::path::Path;

use super::*;
use crate::cgi::ProxyHeaders;
use crate::cgi::samples::SMALL_REQUEST;
use crate::link::lane::{GatewayLane, MAX_LANE_PACKET, MAX_REQUESTS};
use crate::link::message::ToWorker;
use crate::os::title::Title;

/// Calls `act`. The instructions between its entry and its return count.
#[inline(never)]
fn counted<T>(act: impl FnOnce() -> T) -> T {
    black_box(act())
}

/// The title of a process that has none to show, so that the test keeps its arguments.
fn no_title() -> WorkerTitle {
    let _taken = Title::take();
    WorkerTitle::new(Title::take(), 1, 1)
}

#[test]
#[ignore = "counts something under callgrind only: tests/instructions"]
fn requests_of_the_worker() {
    const ROUNDS: usize = 70;
    let mut state = lua::State::new(&lua::Settings {
        root: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lua"),
        target: "hello.lua".parse().unwrap(),
        generation: 1,
        proxy_headers: ProxyHeaders::default(),
    })
    .unwrap();
    state.load().unwrap();
    state.settle();
    let mut variables = Variables::new();
    SMALL_REQUEST.iter().for_each(|(name, value)| variables.push(name.as_bytes(), value.as_bytes()));
    let mut request = Vec::new();
    ToWorker::Request {
        request_id: b"0123456789abcdef",
        variables: variables.encoded(),
        body: RequestBody::Inline(b""),
        role: Role::Responder,
        takes_file: true,
    }
    .encode(&mut request);
    let (mut buffer, mut buffers) = (vec![0; MAX_LANE_PACKET], Buffers::new());
    for _ in 0..ROUNDS {
        let (ours, theirs) = Link::pair().unwrap();
        let (memory, descriptor) = SharedMemory::create("nibiru-test", lane::WORDS).unwrap();
        let mut gateway = GatewayLane::new(memory);
        gateway.wake();
        let shared = SharedMemory::map(descriptor, lane::WORDS).unwrap();
        let link = Rc::new(GatewayLink::new(theirs, Some(shared)));
        state.start_worker(1, 1, Box::new(ResponseSender::new(Rc::clone(&link)))).unwrap();
        while gateway.push(&request).unwrap() {}
        // The worker ends when it has answered what is in its lane.
        drop(ours);
        let title = no_title();
        counted(|| serve(&mut state, &link, title, &mut buffers)).unwrap();
        for _ in 0..MAX_REQUESTS {
            let (length, _) = gateway.receive(&mut buffer).unwrap().expect("a response");
            assert!(buffer[..length].windows(13).any(|bytes| bytes == b"Hello, World!"));
        }
    }
    println!("requests: {}", ROUNDS * MAX_REQUESTS);
}
