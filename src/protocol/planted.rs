//! Bugs put in on purpose, inside the protocol, for the simulator to find.
//!
//! Without the feature `planted`, which no product has, none is ever at work. Which one is at work is told for
//! each thread, since a simulated cluster is one thread.

/// A bug inside the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A generation is started before all of its data connections stand.
    StartBeforeLinked,
    /// Evidence is given when workers are asked to leave, not when they have left.
    EvidenceBeforeJoined,
    /// Every data connection that is ahead may wait.
    WaitingUnbounded,
    /// The end of a worker of a view that is over is taken for one of the present view.
    LateEndCounted,
    /// A copy that is being filled counts as a whole one.
    FillingCounted,
    /// Who asks to be taken in gives evidence of the view that it is not in.
    JoinerTestifies,
    /// Who asks may be an incarnation that the others went on without.
    EndedTakenIn,
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Planted>> = const { std::cell::Cell::new(None) };
}

/// Puts a bug into the protocol of this thread, or takes it out.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Planted>) {
    PLANTED.set(bug);
}

/// Whether this bug is at work on this thread.
#[cfg(feature = "planted")]
pub(super) fn is(bug: Planted) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this bug is at work on this thread.
#[cfg(not(feature = "planted"))]
pub(super) fn is(_bug: Planted) -> bool {
    false
}
