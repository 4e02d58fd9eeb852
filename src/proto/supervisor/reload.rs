//! The order of a load: the reason for which the next generation is loaded, its settings, and the consequence of its failure.
//! Std only.
//!
//! ```text
//!           begin                          first worker is ready
//! at rest ─────────► loading, starting ───────────────────────────► at rest, and the generation serves
//!    ▲                   │  fails, is discarded: a later load, a stop
//!    └───────────────────┘
//! ```
//!
//! [`Zygotes`](crate::proto::supervisor::Zygotes) has the process that loads.

/// The reason for which a generation is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The server starts.
    Start,
    /// The operator asked for it, or the application's root has been replaced.
    Reload,
    /// The workers of the serving generation fail again and again, and the files may have been repaired since it was loaded.
    Recovery,
}

/// The consequence of a load that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// The server ends: no generation serves.
    EndServer,
    /// The serving generation stays.
    KeepServing,
    /// In development, requests are answered with the failure until a load succeeds.
    ServeFailure,
    /// The serving generation stays, and the failure delays its next start of a worker.
    DelayStarts,
}

/// The next step where a worker is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Fork it from the serving generation.
    Fork,
    /// Load the code afresh.
    Load,
    /// Wait: a load runs already, or the server stops.
    Wait,
}

/// The generation that is loaded.
#[derive(Debug)]
struct Next<C> {
    generation: u32,
    reason: Reason,
    config: C,
    /// The time-out that its load, or the start of its first worker, has exceeded. The process has been interrupted then, and may
    /// still send its stack.
    time_out: Option<String>,
}

/// The loads of one server. `C` is its settings.
#[derive(Debug)]
pub(crate) struct Reload<C> {
    development: bool,
    /// Whether the start is over: a load has succeeded, or has failed in development.
    has_started: bool,
    /// The number of the newest generation. A number is never used again, also where its load failed.
    generation: u32,
    next: Option<Next<C>>,
}

impl<C> Reload<C> {
    /// Nothing has been loaded.
    pub(crate) fn new(development: bool) -> Self {
        Self { development, has_started: false, generation: 0, next: None }
    }

    /// Begins to load a generation with these settings, which come into force with it. Gives its number, and its reason: until
    /// the start is over, every load belongs to it.
    pub(crate) fn begin(&mut self, reason: Reason, config: C) -> (u32, Reason) {
        let reason = if self.has_started { reason } else { Reason::Start };
        self.generation += 1;
        self.next = Some(Next { generation: self.generation, reason, config, time_out: None });
        (self.generation, reason)
    }

    /// Uses up a number for a reload that never begins, since its settings are wrong. Discards the load that runs, but for the
    /// start's, which goes on.
    pub(crate) fn refuse(&mut self) -> u32 {
        self.next.take_if(|next| next.reason != Reason::Start);
        self.generation += 1;
        self.generation
    }

    /// The reason of the load that runs.
    pub(crate) fn reason(&self) -> Option<Reason> {
        self.next.as_ref().map(|next| next.reason)
    }

    /// The settings of the load that runs.
    pub(crate) fn config(&self) -> Option<&C> {
        self.next.as_ref().map(|next| &next.config)
    }

    /// Records that the application is loaded. Its first worker is next, with a time of its own.
    pub(crate) fn loaded(&mut self) {
        if let Some(next) = &mut self.next {
            next.time_out = None;
        }
    }

    /// Records that the load, or the start of the first worker, was interrupted at this time-out.
    pub(crate) fn interrupted(&mut self, time_out: String) {
        if let Some(next) = &mut self.next {
            next.time_out = Some(time_out);
        }
    }

    /// The message of a failure, behind the time-out that caused it, if one did.
    pub(crate) fn explain(&self, message: String) -> String {
        match self.next.as_ref().and_then(|next| next.time_out.as_deref()) {
            Some(time_out) => format!("{time_out}: {message}"),
            None => message,
        }
    }

    /// Discards the load that runs.
    pub(crate) fn discard(&mut self) {
        self.next = None;
    }

    /// Records that the first worker of the generation is ready. Gives its reason and settings.
    pub(crate) fn succeeded(&mut self) -> Option<(Reason, C)> {
        let Next { reason, config, .. } = self.next.take()?;
        self.has_started = true;
        Some((reason, config))
    }

    /// Records that the load has failed. Gives its number, and the consequence.
    pub(crate) fn failed(&mut self) -> Option<(u32, Consequence)> {
        let Next { generation, reason, .. } = self.next.take()?;
        self.has_started |= self.development;
        let consequence = match reason {
            Reason::Recovery => Consequence::DelayStarts,
            Reason::Start | Reason::Reload if self.development => Consequence::ServeFailure,
            Reason::Start => Consequence::EndServer,
            Reason::Reload => Consequence::KeepServing,
        };
        Some((generation, consequence))
    }

    /// The step where a worker is missing. `is_failing`: workers of the serving generation fail again and again. `is_copy`:
    /// another would run the code that was loaded before, or could not load it. `may_load`: the server does not stop.
    pub(crate) fn remedy(&self, is_failing: bool, is_copy: bool, may_load: bool) -> Remedy {
        if !(is_failing && is_copy) {
            Remedy::Fork
        } else if self.next.is_none() && may_load {
            Remedy::Load
        } else {
            Remedy::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that serves generation 1.
    fn serving(development: bool) -> Reload<&'static str> {
        let mut reload = Reload::new(development);
        assert_eq!(reload.begin(Reason::Reload, "first"), (1, Reason::Start));
        assert_eq!(reload.succeeded(), Some((Reason::Start, "first")));
        reload
    }

    #[test]
    fn settings_come_into_force_with_their_generation_and_only_once() {
        let mut reload = serving(false);
        assert_eq!((reload.config(), reload.reason()), (None, None));
        assert_eq!(reload.succeeded(), None);
        assert_eq!(reload.begin(Reason::Reload, "second"), (2, Reason::Reload));
        assert_eq!((reload.config(), reload.reason()), (Some(&"second"), Some(Reason::Reload)));
        assert_eq!(
            reload.begin(Reason::Recovery, "third"),
            (3, Reason::Recovery),
            "a later load replaces it"
        );
        assert_eq!(reload.succeeded(), Some((Reason::Recovery, "third")));
        assert_eq!(reload.succeeded(), None);
    }

    #[test]
    fn a_discarded_load_has_no_outcome_and_its_number_is_used_up() {
        let mut reload = serving(false);
        reload.begin(Reason::Reload, "second");
        reload.discard();
        assert_eq!((reload.succeeded(), reload.failed()), (None, None));
        assert_eq!(reload.begin(Reason::Reload, "third"), (3, Reason::Reload));
        assert_eq!(
            (reload.refuse(), reload.config()),
            (4, None),
            "the newest reload counts, also a wrong one"
        );
        assert_eq!(reload.begin(Reason::Reload, "fifth").0, 5);
    }

    #[test]
    fn consequences_of_a_failure() {
        for (development, reason, consequence) in [
            (false, Reason::Start, Consequence::EndServer),
            (false, Reason::Reload, Consequence::KeepServing),
            (false, Reason::Recovery, Consequence::DelayStarts),
            (true, Reason::Start, Consequence::ServeFailure),
            (true, Reason::Reload, Consequence::ServeFailure),
            (true, Reason::Recovery, Consequence::DelayStarts),
        ] {
            let mut reload = match reason {
                Reason::Start => Reload::new(development),
                Reason::Reload | Reason::Recovery => serving(development),
            };
            assert_eq!(reload.begin(reason, "next").1, reason);
            let (_, found) = reload.failed().unwrap();
            assert_eq!(found, consequence, "{reason:?}, development: {development}");
            assert_eq!(reload.failed(), None, "once");
        }
    }

    #[test]
    fn every_load_belongs_to_the_start_until_its_outcome_is_known() {
        let mut reload = Reload::new(false);
        reload.begin(Reason::Start, "first");
        assert_eq!(reload.begin(Reason::Reload, "second"), (2, Reason::Start));
        assert_eq!(reload.failed(), Some((2, Consequence::EndServer)));

        let mut reload = Reload::new(true);
        reload.begin(Reason::Start, "first");
        assert_eq!(reload.failed(), Some((1, Consequence::ServeFailure)));
        assert_eq!(
            reload.begin(Reason::Reload, "second"),
            (2, Reason::Reload),
            "in development the start is over"
        );
    }

    #[test]
    fn a_reload_with_wrong_settings_leaves_the_start_alone() {
        let mut reload = Reload::new(false);
        reload.begin(Reason::Start, "first");
        assert_eq!(reload.refuse(), 2);
        assert_eq!(reload.config(), Some(&"first"));
        assert_eq!(reload.failed(), Some((1, Consequence::EndServer)));
    }

    #[test]
    fn a_failure_is_explained_by_the_time_out_of_its_own_stage() {
        let mut reload = serving(false);
        reload.interrupted("too late".to_owned());
        assert_eq!(reload.explain("stack".to_owned()), "stack", "nothing is loaded");
        reload.begin(Reason::Reload, "second");
        reload.interrupted("loading takes too long".to_owned());
        assert_eq!(reload.explain("stack".to_owned()), "loading takes too long: stack");
        reload.loaded();
        assert_eq!(reload.explain("stack".to_owned()), "stack", "loaded all the same");
        reload.interrupted("its first worker takes too long".to_owned());
        assert_eq!(reload.explain("stack".to_owned()), "its first worker takes too long: stack");
        reload.begin(Reason::Reload, "third");
        assert_eq!(reload.explain("stack".to_owned()), "stack", "another load");
    }

    #[test]
    fn remedies() {
        let mut reload = serving(false);
        for (is_failing, is_copy, may_load, at_rest, loading) in [
            (false, false, true, Remedy::Fork, Remedy::Fork),
            (false, true, true, Remedy::Fork, Remedy::Fork),
            (true, false, true, Remedy::Fork, Remedy::Fork),
            (true, true, true, Remedy::Load, Remedy::Wait),
            (true, true, false, Remedy::Wait, Remedy::Wait),
        ] {
            assert_eq!(reload.remedy(is_failing, is_copy, may_load), at_rest);
            reload.begin(Reason::Reload, "second");
            assert_eq!(reload.remedy(is_failing, is_copy, may_load), loading);
            reload.discard();
        }
    }
}
