//! The target size of the pool, and whether the pool has reached it. Std only.

/// The target number of workers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    /// The target, raised by waiting requests and lowered by idleness.
    target: u32,
    /// Whether the pool has had that many workers since the target or the generation changed, or the last worker died.
    reached: bool,
}

impl Growth {
    pub(super) fn new(target: u32) -> Self {
        Self { target, reached: false }
    }

    pub(super) fn target(&self) -> u32 {
        self.target
    }

    /// Whether the target has been reached.
    pub(super) fn is_reached(&self) -> bool {
        self.reached
    }

    /// Sets the target. `present`: the number of idle and busy workers of the serving generation.
    pub(super) fn set_target(&mut self, target: u32, present: u32) {
        if target != self.target {
            self.target = target;
            self.restart(present);
        }
    }

    /// Raises the target to this number, if it is below.
    pub(super) fn grow_to(&mut self, target: u32, present: u32) {
        self.set_target(self.target.max(target), present);
    }

    /// Lowers the target by one worker, but not below `min`.
    pub(super) fn shrink(&mut self, min: u32, present: u32) {
        self.set_target(self.target.saturating_sub(1).max(min), present);
    }

    /// Records how many workers are present.
    pub(super) fn record_present(&mut self, present: u32) {
        self.reached = self.reached || present >= self.target;
    }

    /// Starts anew after a change of target or generation.
    pub(super) fn restart(&mut self, present: u32) {
        self.reached = present >= self.target;
    }

    /// Records that the last worker has died.
    pub(super) fn record_loss_of_all(&mut self) {
        self.reached = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        type Row = (&'static str, (u32, bool), fn(&mut Growth), (u32, bool));
        let table: [Row; 12] = [
            ("fewer than wanted", (2, false), |it| it.record_present(1), (2, false)),
            ("as many as wanted", (2, false), |it| it.record_present(2), (2, true)),
            ("reached, and one is gone", (2, true), |it| it.record_present(1), (2, true)),
            ("more are wanted", (2, true), |it| it.grow_to(4, 2), (4, false)),
            ("more are wanted, and there", (2, true), |it| it.grow_to(4, 4), (4, true)),
            ("as many are wanted", (2, true), |it| it.grow_to(2, 0), (2, true)),
            ("fewer would do", (2, true), |it| it.grow_to(1, 0), (2, true)),
            ("one is idle", (2, false), |it| it.shrink(0, 2), (1, true)),
            ("one is idle of the least", (2, false), |it| it.shrink(2, 1), (2, false)),
            ("another policy", (2, true), |it| it.set_target(3, 1), (3, false)),
            ("a new generation", (2, true), |it| it.restart(1), (2, false)),
            ("all have died", (2, true), Growth::record_loss_of_all, (2, false)),
        ];
        for (name, (target, reached), act, after) in table {
            let mut growth = Growth { target, reached };
            act(&mut growth);
            assert_eq!((growth.target(), growth.is_reached()), after, "{name}");
        }
        let mut none = Growth::new(0);
        none.shrink(0, 0);
        assert_eq!(none.target(), 0);
    }
}
