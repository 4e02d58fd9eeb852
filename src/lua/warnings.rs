//! The warnings of Lua's `warn`, put together from their pieces. As in the `lua` program, warnings are off until a `warn("@on")`.

/// Bytes of a warning after which no more pieces are added: no message of the log is longer.
const MAX_WARNING: usize = 64 * 1024;

/// The state of `warn`.
#[derive(Default)]
pub(super) struct Warnings {
    on: bool,
    /// The pieces so far of a warning whose last piece is still to come.
    begun: Option<String>,
}

impl Warnings {
    /// Adds a piece of a warning; `more` follow. Gives the whole warning with its last piece, while warnings are on.
    ///
    /// A warning in one piece that begins with `@` is a control message: `@on`, `@off`; others are ignored, as Lua's manual
    /// says.
    pub(super) fn add(&mut self, piece: &str, more: bool) -> Option<String> {
        if self.begun.is_none() && !more && piece.starts_with('@') {
            match piece {
                "@on" => self.on = true,
                "@off" => self.on = false,
                _ => {}
            }
            return None;
        }
        let begun = self.begun.get_or_insert_default();
        if self.on && begun.len() <= MAX_WARNING {
            begun.push_str(piece);
        }
        if more {
            return None;
        }
        self.begun.take().filter(|_| self.on)
    }
}
