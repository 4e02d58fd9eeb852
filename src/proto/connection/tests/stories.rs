//! Clients, workers, disks and clocks that act in an order of chance.

use super::*;

/// The acts of one story: whatever they are, no timer expires twice, no response is told twice, and every stream ends.
struct Story {
    random: fastrand::Rng,
    pair: Pair,
    /// Bytes that the client has still to send, of the request that it is sending.
    sending: Vec<u8>,
    running: Vec<(StreamKey, ResponseWriter)>,
    next_id: u16,
    begun: usize,
    ended: usize,
}

impl Story {
    fn new(seed: u64) -> Self {
        let mut pair = Pair::new();
        pair.room = 0;
        Self {
            random: fastrand::Rng::with_seed(seed),
            pair,
            sending: Vec::new(),
            running: Vec::new(),
            next_id: 0,
            begun: 0,
            ended: 0,
        }
    }

    fn take(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Request { key, .. } => {
                    self.begun += 1;
                    self.running.push((key, ResponseWriter::new(false)));
                }
                Event::Rejected { key, status, .. } => {
                    self.begun += 1;
                    self.pair.respond(key, |writer, sink, now| writer.fail(status, "no", None, sink, now));
                    self.ended += 1;
                }
                Event::Slow => self.pair.connection.start_spooling(),
                Event::AbortedWhileArriving { .. } | Event::AbortedBeforeParams => {}
                Event::Abandoned { .. }
                | Event::Late(_)
                | Event::ParamsLate
                | Event::SpoolLost(_)
                | Event::FileLost(_)
                | Event::Ended(_)
                | Event::BodyFileRefused { .. }
                | Event::Misconfigured { .. } => {}
            }
        }
    }

    /// The client sends a part of a request.
    fn send(&mut self) {
        if self.sending.is_empty() {
            self.next_id = self.next_id % 5 + 1;
            if self.pair.connection.server.active() > 4 {
                return;
            }
            while self.pair.connection.key_of(self.next_id).is_some() {
                self.next_id = self.next_id % 5 + 1;
            }
            let id = self.next_id;
            self.sending = match self.random.u8(..6) {
                0 => get(id, true),
                1 => [post(id, "20000"), stdin(id, &[7; 20_000]), stdin_end(id)].concat(),
                2 => [post(id, ""), stdin(id, &[7; 100]), stdin_end(id)].concat(),
                3 => {
                    let stdin = if self.random.bool() { stdin_end(id) } else { stdin(id, b"body") };
                    let variables = [("CONTENT_LENGTH", "5000"), ("REQUEST_BODY_FILE", "/body/1")];
                    [head(id, true, Role::Responder, &variables), stdin].concat()
                }
                4 => [post(id, "50"), stdin(id, b"short"), stdin_end(id)].concat(),
                _ => [post(id, "1000"), stdin(id, b"part"), abort(id)].concat(),
            };
        }
        if self.pair.connection.is_readable() {
            let length = self.random.usize(1..=self.sending.len());
            let bytes: Vec<u8> = self.sending.drain(..length).collect();
            let held = [self.pair.connection.take_held(), bytes].concat();
            let events = self.pair.send(&held);
            self.take(events);
        }
    }

    /// A worker sends a part of its response.
    fn respond(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let index = self.random.usize(..self.running.len());
        let act = self.random.u8(..7);
        let body = vec![b'x'; self.random.usize(..60_000)];
        let part = self.pair.file(self.random.usize(1..200_000));
        let (key, mut writer) = self.running.swap_remove(index);
        self.pair.respond_with(&mut writer, key, |writer, sink, now| match act {
            0 => writer.fail(500, "failed", None, sink, now),
            1 => {
                if writer.end(sink, now).is_err() {
                    writer.fail(502, "broken", None, sink, now);
                }
            }
            2 => writer.stderr(b"look", sink),
            3 => {
                let head = b"Status: 200 OK\r\n\r\n";
                let _ = writer.head(head, &ProxyHeaders::default(), sink, || now);
                let _ = writer.file(part, sink);
            }
            _ => {
                let head = b"Status: 200 OK\r\n\r\n";
                let _ = writer.head(head, &ProxyHeaders::default(), sink, || now);
                let _ = writer.body(&body, sink);
            }
        });
        if writer.is_over() {
            self.ended += 1;
        } else {
            self.running.push((key, writer));
        }
        if self.pair.connection.is_full() {
            self.pair.connection.hold_up(|| self.pair.now);
        }
    }

    /// Advances the time. Each due timer is handled once.
    fn wait(&mut self) {
        self.pair.wait(Duration::from_millis(self.random.u64(..4_000)));
        let (others_wait, now) = (self.random.bool(), self.pair.now);
        self.pair.connection.check_client_rate(others_wait, now);
        let events = self.pair.time_out();
        self.take(events);
        if !self.pair.connection.is_closing() {
            let next = self.pair.connection.next_timeout(TIMEOUTS);
            assert!(next.is_none_or(|next| next > self.pair.now), "a timer that has expired is still set");
        }
    }

    /// A thread sends a file. The disk may lose it.
    fn send_file(&mut self) {
        if self.random.bool() {
            self.pair.connection.unblock_file();
        }
        if self.random.u8(..40) > 0 {
            self.pair.send_file(self.random.usize(1..150_000));
        } else if let Some(turn) = self.pair.connection.next_file_turn(|| self.pair.now) {
            let lost = TurnEnd::Lost("gone".to_owned());
            self.pair.connection.file_turn_ended(turn, lost, self.pair.now);
            self.pair.flush();
        }
        let events = self.pair.events();
        self.take(events);
    }

    /// Whether each record that the client has is whole and of one source, up to a break.
    fn check_records(&self) {
        let (mut decoder, mut input) = (Decoder::new(), &self.pair.received[..]);
        while let Ok(Some(reply)) = decoder.receive(&mut input) {
            if let Reply::Stdout { bytes, .. } = reply {
                let mixed = bytes.contains(&b'#') && bytes.contains(&b'x');
                assert!(!mixed, "a record has bytes of two responses");
            }
        }
    }

    /// The disk reads, writes, and opens.
    fn spool(&mut self, disk: &mut std::collections::HashMap<u32, Vec<u8>>) {
        if let Some((key, _)) = self.pair.connection.next_body_file() {
            let file = Arc::new(std::fs::File::open("/dev/null").unwrap());
            let length = if self.random.u8(..4) > 0 { 5000 } else { 7 };
            self.pair.connection.body_file_opened(key, Ok((file, length)), MAX_BODY);
            let events = self.pair.events();
            self.take(events);
        }
        if let Some((place, bytes)) = self.pair.connection.next_spool_write(|| true) {
            disk.insert(place, bytes.to_vec());
            drop(bytes);
            self.pair.connection.spool_written(true);
        }
        if let Some(piece) = self.pair.connection.next_spool_read(|| self.pair.now) {
            let bytes = disk.remove(&piece.place).expect("what is read was written");
            self.pair.connection.spool_read(bytes);
            self.pair.flush();
        }
    }
}

#[test]
fn no_timer_spins_and_no_stream_is_lost_whatever_clients_workers_and_clocks_do() {
    let (mut begun, mut ended, mut closed) = (0, 0, 0);
    for seed in 0..600 {
        let (mut story, mut disk) = (Story::new(seed), std::collections::HashMap::new());
        for _ in 0..200 {
            match story.random.u8(..14) {
                0..4 => story.send(),
                4..8 => story.respond(),
                8 => story.wait(),
                9 => {
                    story.pair.room = story.random.usize(..100_000);
                    story.pair.flush();
                }
                10 => story.spool(&mut disk),
                11 | 12 => story.send_file(),
                _ => {
                    let reading = story.random.bool();
                    story.pair.connection.set_reading(reading, || story.pair.now);
                    story.pair.connection.set_reading(true, || story.pair.now);
                }
            }
            if story.pair.is_closed() {
                closed += 1;
                break;
            }
        }
        story.check_records();
        story.pair.connection.abandon_all();
        for event in story.pair.events() {
            assert!(
                !matches!(event, Event::Request { .. } | Event::Rejected { .. }),
                "seed {seed}: {event:?} of a connection that has gone"
            );
        }
        for (key, _) in &story.running {
            assert!(!story.pair.connection.is_open(*key), "seed {seed}");
        }
        (begun, ended) = (begun + story.begun, ended + story.ended);
    }
    assert!(begun > 1000 && ended > 500 && closed > 20, "{begun} requests, {ended} ended, {closed} closed");
}
