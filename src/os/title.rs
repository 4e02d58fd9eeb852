//! The title of a process, as `ps` shows it: `nibiru: gateway shop.web`, `nibiru: worker 3 gen 2 busy`.
//!
//! The title overwrites the arguments that the process was executed with: the kernel shows that memory in `/proc/PID/cmdline`. A
//! title that is longer than the arguments is cut off.
#![allow(unsafe_code, reason = "the memory of the arguments belongs to no Rust value")]

use std::sync::atomic::{AtomicBool, Ordering};

/// The length of the longest name of a worker's state, in bytes.
const STATE_LENGTH: usize = "starting".len();

/// The title of this process.
#[derive(Debug)]
pub struct Title {
    /// The memory of the arguments; empty where the kernel does not give its address.
    area: &'static mut [u8],
}

impl Title {
    /// Takes the memory of the arguments. The second title of a process has no place and shows nothing.
    pub fn take() -> Self {
        Self { area: take_arguments().unwrap_or_default() }
    }

    /// Shows `nibiru: ` and `text`.
    pub fn set(&mut self, text: &str) {
        let length = self.write(0, b"nibiru: ");
        let length = self.write(length, text.as_bytes());
        // The last byte stays NUL: otherwise the kernel shows the environment as a part of the title.
        let end = self.area.len().saturating_sub(1);
        self.area[length.min(end)..end].fill(0);
    }

    /// Writes as much of `text` as fits. Gives the end of it, as an index into the area.
    fn write(&mut self, at: usize, text: &[u8]) -> usize {
        let end = (at + text.len()).min(self.area.len().saturating_sub(1));
        for (place, byte) in self.area[at.min(end)..end].iter_mut().zip(text) {
            // A newline in a name would look like a second process in the output of `ps`.
            *place = if byte.is_ascii_control() { b'?' } else { *byte };
        }
        end
    }
}

/// The title of a worker, whose last word changes with every request.
#[derive(Debug)]
pub struct WorkerTitle {
    title: Title,
    /// The index of the state in the area.
    state: usize,
}

impl WorkerTitle {
    /// Shows a worker that starts.
    pub fn new(mut title: Title, worker: u32, generation: u32) -> Self {
        let text = format!("worker {worker} gen {generation} ");
        title.set(&text);
        let mut this = Self { title, state: "nibiru: ".len() + text.len() };
        this.set("starting");
        this
    }

    /// Shows another state: `idle`, `busy`. Copies some bytes and makes no system call.
    pub fn set(&mut self, state: &str) {
        let mut padded = [0; STATE_LENGTH];
        let length = state.len().min(STATE_LENGTH);
        padded[..length].copy_from_slice(&state.as_bytes()[..length]);
        let end = self.title.area.len().saturating_sub(1);
        let place = &mut self.title.area[self.state.min(end)..end];
        let length = place.len().min(STATE_LENGTH);
        place[..length].copy_from_slice(&padded[..length]);
    }
}

/// The memory that holds this process's arguments, which the kernel shows in `/proc/PID/cmdline`: the strings of `argv`, one
/// after the other, each with its NUL. Its addresses come from `/proc/self/stat`. `None` the second time, and where the kernel
/// does not give them.
fn take_arguments() -> Option<&'static mut [u8]> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything, so count from its end, after which the third field follows.
    let mut fields = stat[stat.rfind(')')? + 2..].split_ascii_whitespace();
    // Fields 48 and 49 of proc(5): `arg_start` and `arg_end`; 0 where the kernel keeps them to itself.
    let start: usize = fields.nth(48 - 3)?.parse().ok()?;
    let end: usize = fields.next()?.parse().ok()?;
    let first = std::ptr::with_exposed_provenance_mut::<u8>(start);
    if first.is_null() || end <= start || TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    // SAFETY: the kernel laid `argv`'s strings out between these addresses when it executed this process: at the
    // top of the main stack, writable, and there to the end of the process. It is given away once. The standard
    // library keeps pointers into it and reads through them in `std::env::args` only. `clippy.toml` forbids that but in
    // `Cli::read`, which comes before this.
    Some(unsafe { std::slice::from_raw_parts_mut(first, end - start) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn title(length: usize) -> Title {
        Title { area: vec![b'x'; length].leak() }
    }

    #[test]
    fn a_shorter_text_leaves_nothing_of_a_longer_one() {
        let mut title = title(32);
        title.set("gateway shop.web");
        title.set("gateway a\nb");
        assert_eq!(&title.area[..20], b"nibiru: gateway a?b\0");
        assert!(title.area[20..].iter().take(11).all(|byte| *byte == 0));
    }

    #[test]
    fn what_does_not_fit_is_cut_off_and_the_last_byte_is_left() {
        for length in 0..40 {
            let mut worker = WorkerTitle::new(title(length), 3, 2);
            worker.set("busy");
            let last = worker.title.area.iter().rposition(|byte| *byte == b'x');
            assert_eq!(last, length.checked_sub(1), "{length}");
        }
    }

    #[test]
    fn the_state_of_a_worker_changes_in_place() {
        let mut worker = WorkerTitle::new(title(64), 3, 2);
        assert!(worker.title.area.starts_with(b"nibiru: worker 3 gen 2 starting\0"));
        worker.set("idle");
        assert!(worker.title.area.starts_with(b"nibiru: worker 3 gen 2 idle\0\0\0\0\0"));
        worker.set("busy");
        assert!(worker.title.area.starts_with(b"nibiru: worker 3 gen 2 busy\0\0\0\0\0"));
    }
}
