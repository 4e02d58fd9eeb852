//! The vocabulary between the processes, in the order of a worker's life. Std only, no I/O.
//!
//! | from → to | messages |
//! | --- | --- |
//! | gateway → zygote | `Spawn` (with the worker's descriptors), `Shutdown` |
//! | zygote → gateway | `Loaded`, `LoadFailed`, `Spawned` (with a pidfd), `SpawnFailed`, `Exited`; while it loads `Log` |
//! | gateway → worker | `Request` (may carry its bodies' descriptors), `Abort`, `Measure`, `Drain` |
//! | worker → gateway | `Ready`, `StartFailed`, `Answering`, `Head`, `Body`, `File` (with its descriptor), `End`, `Measured`, `Log`, `Stack` |
//!
//! A packet holds one or more messages back to back, so a small response is one packet: `Answering`, `Head`, `Body`,
//! `End`, `Ready`. Integers are little-endian; bytes are led by a `u32` length. The gateway trusts no
//! message: it kills the sender of a packet that does not decode.
//!
//! An order that must reach a worker while it runs a request is no message but a signal: [`super::interrupt`]. `Stack` is
//! its answer.

mod limits;
mod wire;
mod worker;
mod zygote;

pub use limits::{
    MAX_CHUNK, MAX_FIELDS, MAX_INLINE_BODY, MAX_INLINE_BODY_OF_TWO, MAX_PACKET, MIN_FILE, shortened,
};
pub use wire::{LogLevel, Malformed};
pub use worker::{FromWorker, RequestBody, Role, ToWorker};
pub use zygote::{Exit, FromZygote, ToZygote};

#[cfg(test)]
mod tests {
    use super::*;

    const FROM_WORKER: [FromWorker<'_>; 11] = [
        FromWorker::Ready,
        FromWorker::StartFailed { message: b"app.lua:1: no" },
        FromWorker::Head { block: b"Status: 200 OK\r\n\r\n" },
        FromWorker::Body { bytes: b"\0\xff" },
        FromWorker::File { offset: 1 << 40, length: 1 },
        FromWorker::End { complete: true },
        FromWorker::End { complete: false },
        FromWorker::Log { level: LogLevel::Warn, message: b"", fields: b"{}" },
        FromWorker::Measured { pss: 1 << 40, lua_heap: 7 },
        FromWorker::Stack { timeout: true, text: b"stack traceback:" },
        FromWorker::Answering { serial: u32::MAX },
    ];

    const SPOOLED: RequestBody<'_> = RequestBody::Spooled { length: 1 << 40 };
    const INLINE: RequestBody<'_> = RequestBody::Inline(b"body");

    const fn request<'a>(body: RequestBody<'a>, role: Role<'a>) -> ToWorker<'a> {
        ToWorker::Request { request_id: b"r1", variables: b"vv", body, role, takes_file: false }
    }

    const TO_WORKER: [ToWorker<'_>; 11] = [
        request(INLINE, Role::Responder),
        request(SPOOLED, Role::Responder),
        request(RequestBody::Inline(b""), Role::Authorizer),
        request(INLINE, Role::Filter { data: INLINE }),
        request(INLINE, Role::Filter { data: SPOOLED }),
        request(SPOOLED, Role::Filter { data: INLINE }),
        request(SPOOLED, Role::Filter { data: SPOOLED }),
        ToWorker::Request {
            request_id: b"",
            variables: b"",
            body: SPOOLED,
            role: Role::Responder,
            takes_file: true,
        },
        ToWorker::Abort { serial: u32::MAX },
        ToWorker::Drain,
        ToWorker::Measure,
    ];

    const FROM_ZYGOTE: [FromZygote<'_>; 7] = [
        FromZygote::Loaded { preloaded: true, micros: 1500 },
        FromZygote::LoadFailed { message: b"no" },
        FromZygote::Spawned { worker: 3, pid: 77 },
        FromZygote::SpawnFailed { worker: 3, errno: 11 },
        FromZygote::Exited { worker: 3, pid: 77, exit: Exit::Signal(9) },
        FromZygote::Exited { worker: 3, pid: 77, exit: Exit::Status(0) },
        FromZygote::Log { level: LogLevel::Error, message: b"line", fields: b"" },
    ];

    const TO_ZYGOTE: [ToZygote; 2] = [ToZygote::Spawn { worker: 9 }, ToZygote::Shutdown];

    /// Encodes all messages into one packet, decodes them, and tries every truncation of it.
    macro_rules! round_trip {
        ($type:ty, $messages:expr) => {
            let mut packet = Vec::new();
            for message in $messages {
                message.encode(&mut packet);
            }
            let mut rest = &packet[..];
            for message in $messages {
                assert_eq!(<$type>::decode(&mut rest), Ok(message));
            }
            assert!(rest.is_empty());
            for length in 0..packet.len() {
                let mut cut = &packet[..length];
                let mut decoded = 0;
                while <$type>::decode(&mut cut).is_ok() {
                    decoded += 1;
                }
                assert!(decoded < $messages.len(), "a cut packet decoded whole");
            }
        };
    }

    #[test]
    fn every_message_comes_back_as_it_went_and_none_from_a_cut_packet() {
        round_trip!(FromWorker<'_>, FROM_WORKER);
        round_trip!(ToWorker<'_>, TO_WORKER);
        round_trip!(FromZygote<'_>, FROM_ZYGOTE);
        round_trip!(ToZygote, TO_ZYGOTE);
    }

    #[test]
    fn a_message_that_is_too_long_says_how_much_is_missing() {
        assert_eq!(*shortened(&[b'x'; MAX_CHUNK]), [b'x'; MAX_CHUNK]);
        for shift in 0..4 {
            let long = format!("{}{}", "x".repeat(shift), "漢".repeat(MAX_CHUNK));
            let short = shortened(long.as_bytes());
            let text = str::from_utf8(&short).expect("no character is cut");
            let (kept, note) = text.split_once('…').unwrap();
            assert!(short.len() <= MAX_CHUNK && long.starts_with(kept));
            assert_eq!(note, format!(" ({} bytes are left out)", long.len() - kept.len()));
        }
        assert!(shortened(&[0x80; 2 * MAX_CHUNK]).len() <= MAX_CHUNK);
    }

    #[test]
    fn a_file_has_bytes_and_no_more_than_an_offset_can_name() {
        let most = i64::MAX.cast_unsigned();
        for (offset, length, is_file) in [
            (0, 1, true),
            (0, 0, false),
            (most, 1, false),
            (most - 1, 1, true),
            (u64::MAX, 1, false),
            (1, u64::MAX, false),
        ] {
            let mut packet = Vec::new();
            FromWorker::File { offset, length }.encode(&mut packet);
            assert_eq!(FromWorker::decode(&mut &packet[..]).is_ok(), is_file, "{length} from {offset}");
        }
    }

    #[test]
    fn a_request_in_no_known_role_is_malformed() {
        let mut packet = Vec::new();
        request(RequestBody::Inline(b""), Role::Responder).encode(&mut packet);
        let flags = packet.len() - 5;
        for (value, known) in [
            (0, true),
            (6, false),
            (8, false),
            (10, false),
            (16, true),
            (24, false),
            (32, false),
            (255, false),
        ] {
            packet[flags] = value;
            // Room for whatever the byte may promise.
            let padded = [&packet[..], &[0; 16]].concat();
            assert_eq!(ToWorker::decode(&mut &padded[..]).is_ok(), known, "{value}");
        }
    }
}
