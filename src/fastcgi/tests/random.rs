//! Random streams. A failure prints the seed that repeats it.

use super::super::server::MAX_REFUSED;
use super::*;

/// A stream of requests that a well-behaved client could send, ids interleaved.
fn random_requests(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut scripts: Vec<Vec<Vec<u8>>> = Vec::new();
    for id in 1..=random.u16(1..6) {
        let mut pairs = Vec::new();
        for _ in 0..random.usize(..40) {
            let name = "N".repeat(random.usize(1..300));
            params::encode(name.as_bytes(), "v".repeat(random.usize(..300)).as_bytes(), &mut pairs);
        }
        let role = [Role::Responder, Role::Authorizer, Role::Filter][random.usize(..3)];
        let mut script = vec![Vec::new()];
        client::begin(id, role, random.bool(), &mut script[0]);
        let length = random.usize(..3000);
        let body: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
        let streams = [(PARAMS, &pairs), (STDIN, &body), (DATA, &body)];
        for (record_type, stream) in &streams[..if role == Role::Filter { 3 } else { 2 }] {
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let (part, left) = rest.split_at(random.usize(1..=rest.len()));
                script.push(Wire::new().raw(*record_type, id, part, random.u8(..)).0);
                rest = left;
            }
            if random.u8(..20) == 0 {
                break;
            }
            script.push(Wire::new().raw(*record_type, id, b"", random.u8(..)).0);
        }
        if random.u8(..8) == 0 {
            script.push(Wire::new().abort(id).0);
        }
        script.push(Wire::new().get_values(&["FCGI_MAX_CONNS"]).0);
        script.reverse();
        scripts.push(script);
    }
    let mut bytes = Vec::new();
    while !scripts.is_empty() {
        let chosen = random.usize(..scripts.len());
        match scripts[chosen].pop() {
            Some(record) => bytes.extend(record),
            None => drop(scripts.swap_remove(chosen)),
        }
    }
    bytes
}

fn random_reads<'b>(random: &mut fastrand::Rng, mut bytes: &'b [u8]) -> Vec<&'b [u8]> {
    let mut reads = Vec::new();
    while !bytes.is_empty() {
        let most = [1, 9, 100, 5000][random.usize(..4)];
        let (read, rest) = bytes.split_at(random.usize(..=most).min(bytes.len()));
        reads.push(read);
        bytes = rest;
    }
    reads
}

#[test]
fn random_requests_give_the_same_events_in_any_split() {
    let first = fastrand::u64(..);
    for seed in first..first + 300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let bytes = random_requests(&mut random);
        for react in [wait as React, answer] {
            let whole = run(Limits::default(), [&bytes[..]], react);
            assert_eq!(whole.fault, None, "seed {seed}");
            let reads = random_reads(&mut random, &bytes);
            let split = run(Limits::default(), reads, react);
            assert!(split == whole, "seed {seed}: events differ\n{whole:?}\n{split:?}");
        }
    }
}

#[test]
fn random_garbage_neither_panics_nor_grows_nor_hangs() {
    let first = fastrand::u64(..);
    let limits =
        Limits { max_params: 1000, max_pairs: 10, max_requests: 4, max_ignored: 50, ..Limits::default() };
    for seed in first..first + 3000 {
        let mut random = fastrand::Rng::with_seed(seed);
        // Half of them are valid requests in which a few bytes have changed, which gets further.
        let mut bytes = if random.bool() {
            random_requests(&mut random)
        } else {
            std::iter::repeat_with(|| random.u8(..12)).take(2000).collect()
        };
        for _ in 0..random.usize(..20) {
            let position = random.usize(..bytes.len());
            bytes[position] = random.u8(..);
        }
        let (mut server, mut out, mut calls) = (Server::new(limits), Vec::new(), 0);
        'reads: for mut input in random_reads(&mut random, &bytes) {
            loop {
                calls += 1;
                assert!(calls < 3 * bytes.len() + 10, "seed {seed}: hangs");
                match server.receive(&mut input, &mut out) {
                    Ok(Some(event)) if random.bool() => _ = answer(&mut server, &event, &mut Vec::new()),
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'reads,
                }
            }
            assert!(server.active() <= 4 + MAX_REFUSED, "seed {seed}");
        }
        assert!(out.len() <= 3 * bytes.len(), "seed {seed}: {} bytes answer {}", out.len(), bytes.len());
        let mut decoder = client::Decoder::new();
        for mut input in random_reads(&mut random, &bytes) {
            while let Ok(Some(_)) = decoder.receive(&mut input) {}
        }
    }
}
