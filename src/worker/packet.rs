//! The packet that a worker fills for the gateway: messages that wait to be sent together. Pure: sends nothing.

use crate::link::interrupt::Serial;
use crate::link::message::{FromWorker, MAX_PACKET};

/// Messages that are not sent yet, together less than [`MAX_PACKET`] bytes. A part of a response is led by the serial number of
/// its request, once in each packet.
#[derive(Debug, Default)]
pub(super) struct Packet {
    bytes: Vec<u8>,
    /// The packet holds the serial number already.
    answering: bool,
    /// The serial number of the request that runs.
    serial: Serial,
}

impl Packet {
    /// Sets the request that the following parts of a response belong to.
    pub(super) fn begin(&mut self, serial: Serial) {
        self.serial = serial;
    }

    /// Whether `message` fits, with the `End` and `Ready` that may follow it.
    pub(super) fn has_room_for(&self, message: &FromWorker<'_>) -> bool {
        let length = match message {
            FromWorker::StartFailed { message } => message.len(),
            FromWorker::Log { message, fields, .. } => message.len() + fields.len(),
            FromWorker::Head { block } => block.len(),
            FromWorker::Body { bytes } => bytes.len(),
            FromWorker::Stack { text, .. } => text.len(),
            FromWorker::Ready
            | FromWorker::Answering { .. }
            | FromWorker::File { .. }
            | FromWorker::End { .. }
            | FromWorker::Measured { .. } => 0,
        };
        /// Room for the tags and numbers of this message, of `Answering` before it, and of the `End` and `Ready` that may
        /// follow.
        const OVERHEAD: usize = 32;
        self.bytes.len() + length + OVERHEAD <= MAX_PACKET
    }

    /// Adds a message.
    pub(super) fn add(&mut self, message: &FromWorker<'_>) {
        let is_answer = matches!(
            message,
            FromWorker::Head { .. }
                | FromWorker::Body { .. }
                | FromWorker::File { .. }
                | FromWorker::End { .. }
        );
        if is_answer && !std::mem::replace(&mut self.answering, true) {
            FromWorker::Answering { serial: self.serial.number() }.encode(&mut self.bytes);
        }
        message.encode(&mut self.bytes);
    }

    /// The messages, back to back.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Empties the packet, which has been sent.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.answering = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::message::{LogLevel, MAX_CHUNK, MAX_FIELDS};

    fn messages(packet: &Packet) -> Vec<FromWorker<'_>> {
        let (mut rest, mut messages) = (packet.bytes(), Vec::new());
        while !rest.is_empty() {
            messages.push(FromWorker::decode(&mut rest).unwrap());
        }
        messages
    }

    #[test]
    fn each_packet_names_its_request_once_and_before_the_answer() {
        let serial = Serial::default().next().next();
        let mut packet = Packet::default();
        packet.begin(serial);
        for _ in 0..2 {
            packet.add(&FromWorker::Log { level: LogLevel::Info, message: b"line", fields: b"" });
            packet.add(&FromWorker::Body { bytes: b"part" });
            packet.add(&FromWorker::End { complete: true });
            packet.add(&FromWorker::Ready);
            let found = messages(&packet);
            assert!(matches!(
                found[..],
                [
                    FromWorker::Log { .. },
                    FromWorker::Answering { serial: 2 },
                    FromWorker::Body { .. },
                    FromWorker::End { .. },
                    FromWorker::Ready
                ]
            ));
            packet.clear();
            assert_eq!(packet.bytes(), b"");
        }
    }

    #[test]
    fn a_packet_that_has_room_never_exceeds_the_limit() {
        let (chunk, fields) = (vec![b'x'; MAX_CHUNK], vec![b'x'; MAX_FIELDS]);
        let limit = MAX_PACKET - 2 * MAX_CHUNK - MAX_FIELDS;
        for length in limit - 100..=limit {
            let mut packet = Packet::default();
            packet.add(&FromWorker::Log { level: LogLevel::Warn, message: &chunk, fields: &fields });
            packet.add(&FromWorker::Body { bytes: &chunk[..length] });
            let head = FromWorker::Head { block: &chunk };
            if packet.has_room_for(&head) {
                packet.add(&head);
                packet.add(&FromWorker::End { complete: true });
                packet.add(&FromWorker::Ready);
                assert!(packet.bytes().len() <= MAX_PACKET, "{length}");
            } else {
                assert!(packet.bytes().len() + MAX_CHUNK + 40 > MAX_PACKET, "{length}: room was left");
            }
        }
        assert!(Packet::default().has_room_for(&FromWorker::StartFailed { message: &chunk }));
    }
}
