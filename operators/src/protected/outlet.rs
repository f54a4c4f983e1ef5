//! Outlet: the output of a protected operator for what it seals, and when it seals.

use timely::container::NoopBuilder;
use timely::dataflow::channels::pushers::Output;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;

use crate::fence::Fence;
use crate::ids::Epoch;
use crate::rounds::frames::Frames;
use crate::time::FencedTime;

/// State that is sealed: its changes are sent to its backups, as of the end of an epoch.
pub(crate) trait Seal {
    /// Encodes what changed since the last seal, for the backups, as of the end of `epoch`; `last` if there
    /// will be no later seal.
    fn seal(&mut self, epoch: Epoch, last: bool, send: &mut dyn FnMut(Frames));

    /// Whether there are copies to fill, and nothing was sealed at or after `epoch`.
    fn wants_seal(&mut self, epoch: Epoch) -> bool;
}

/// Everything that an operator seals at a checkpoint: one or more states.
pub(crate) trait Seals {
    /// Calls `seal` with each state, in the same order each time.
    fn each(&mut self, seal: &mut dyn FnMut(&mut dyn Seal));
}

impl<S: Seal> Seals for S {
    fn each(&mut self, seal: &mut dyn FnMut(&mut dyn Seal)) {
        seal(self);
    }
}

/// The output of a protected operator for its snapshots, which also decides when it seals them.
///
/// An operator calls [`turn_to`](Outlet::turn_to) before it acts on an epoch, which seals what must be sealed
/// before, and ends each activation with [`pass`](Outlet::pass). If every epoch is a checkpoint, each is
/// sealed before the operator acts on the next one.
///
/// INVARIANT: the held capability is at or below the first change that is not sealed, and at most one epoch
/// beyond the last checkpoint that the operator's input has passed: so nothing counts as stored before it is,
/// and a checkpoint that becomes known late can still be sealed.
pub(crate) struct Outlet<T: FencedTime> {
    fence: Fence,
    output: OutputBuilder<T, NoopBuilder<Frames>>,
    capability: Option<Capability<T>>,
    unsealed: Option<Unsealed>,
}

/// The first and the last epoch of the changes that are not sealed.
#[derive(Clone, Copy)]
struct Unsealed {
    first: Epoch,
    last: Epoch,
}

impl<T: FencedTime> Outlet<T> {
    /// The outlet of an operator that has just been built with this output and its capability.
    pub(crate) fn new(
        fence: &Fence,
        output: Output<T, Frames>,
        mut capability: Option<Capability<T>>,
    ) -> Self {
        if let Some(capability) = &mut capability {
            capability.downgrade(&fence.resume_time());
        }
        let output = OutputBuilder::from(output);
        Outlet { fence: fence.clone(), output, capability, unsealed: None }
    }

    /// Whether the operator may act on `epoch` now. If so, its changes count as not sealed.
    ///
    /// If not, then either something is [`due`](Outlet::due) as soon as the operator's input has passed a
    /// checkpoint, or a checkpoint is being chosen and the operator must wait for the decision
    /// ([`wake_on_decision`](crate::fence::checkpoints::Checkpoints::wake_on_decision)).
    pub(crate) fn begin(&mut self, epoch: Epoch) -> bool {
        let checkpoints = self.fence.checkpoints();
        if self.boundary().is_some_and(|checkpoint| checkpoint < epoch) || !checkpoints.admit(epoch)
        {
            return false;
        }
        match &mut self.unsealed {
            Some(unsealed) => unsealed.last = unsealed.last.max(epoch),
            none => *none = Some(Unsealed { first: epoch, last: epoch }),
        }
        true
    }

    /// The checkpoint at which the unsealed changes must be sealed, if it is known.
    pub(crate) fn boundary(&self) -> Option<Epoch> {
        self.fence.checkpoints().at_or_after(self.unsealed?.first)
    }

    /// Seals what must be sealed before the operator acts on `epoch`, and returns whether it may act on it
    /// now, as [`begin`](Outlet::begin) does. All epochs before it are [`complete`](super::turns::complete).
    pub(crate) fn turn_to(&mut self, epoch: Epoch, states: &mut impl Seals) -> bool {
        self.seal_due(Epoch::before(Some(epoch)), states);
        self.begin(epoch)
    }

    /// Seals what must be sealed, continues to fill copies and releases what is sealed, given that all epochs
    /// through `through` are complete. Call it at the end of each activation.
    pub(crate) fn pass(&mut self, through: Option<Epoch>, states: &mut impl Seals) {
        self.seal_due(through, states);
        states.each(&mut |state| self.fill(through, state));
        self.advance(through);
    }

    /// Seals `states` if all epochs through `through` are complete and with them a checkpoint at which the
    /// operator has something to seal; returns the epoch of the seal. Afterwards nothing counts as not sealed.
    pub(crate) fn seal_due(
        &mut self,
        through: Option<Epoch>,
        states: &mut impl Seals,
    ) -> Option<Epoch> {
        let time = self.due(through)?;
        states.each(&mut |state| self.seal(&time, state));
        Some(time.epoch())
    }

    /// The time at which the operator must [`seal`](Outlet::seal) all its state now, if it must: all epochs
    /// through `through` are complete, and with them a checkpoint that it has not sealed.
    ///
    /// Afterwards nothing counts as not sealed.
    pub(crate) fn due(&mut self, through: Option<Epoch>) -> Option<T> {
        let boundary = self.boundary().filter(|boundary| Some(*boundary) <= through)?;
        let unsealed = self.unsealed.take()?;
        // With a planted bug, the simulator must see the consequences.
        assert!(
            cfg!(feature = "planted") || unsealed.last <= boundary,
            "a checkpoint at epoch {boundary} would hold changes of epoch {}",
            unsealed.last
        );
        // At the end of a dataflow no change follows the last one: it belongs to every checkpoint that is
        // still to be chosen.
        Some(T::first_of(if boundary == Epoch::END { unsealed.last } else { boundary }))
    }

    /// Seals `state` at the end of `time` and sends what changed.
    pub(crate) fn seal(&mut self, time: &T, state: &mut dyn Seal) {
        self.send(time, state, false);
    }

    /// As [`seal`](Outlet::seal), if no later seal will follow: everything that must be filled is filled.
    pub(crate) fn seal_last(&mut self, time: &T, state: &mut dyn Seal) {
        self.unsealed = None;
        self.send(time, state, true);
    }

    /// Continues to fill copies, at the last checkpoint at or before `through`, if nothing else causes
    /// `state` to be sealed. Call it when all epochs through `through` are complete.
    fn fill(&mut self, through: Option<Epoch>, state: &mut dyn Seal) {
        let Some(epoch) = through.filter(|through| *through < Epoch::END) else { return };
        let Some(epoch) = self.fence.checkpoints().at_or_before(epoch) else { return };
        let Some(capability) = &self.capability else { return };
        if self.unsealed.is_none() && capability.epoch() <= epoch && state.wants_seal(epoch) {
            self.send(&T::first_of(epoch), state, false);
        }
    }

    fn send(&mut self, time: &T, state: &mut dyn Seal, last: bool) {
        let Some(capability) = &self.capability else { return };
        let capability = capability.delayed(time);
        let mut output = self.output.activate();
        let mut session = output.session_with_builder(&capability);
        state.seal(time.epoch(), last, &mut |mut frames| session.give_container(&mut frames));
    }

    /// Releases what is sealed, given that all epochs through `through` are complete.
    fn advance(&mut self, through: Option<Epoch>) {
        let sealed = through.and_then(|through| self.fence.checkpoints().at_or_before(through));
        let next = match sealed {
            None => return,
            Some(Epoch::END) => None,
            Some(sealed) => Some(sealed.next()),
        };
        let first = self.unsealed.map(|unsealed| unsealed.first);
        advance(&mut self.capability, next.into_iter().chain(first).min());
    }

    /// Releases everything: nothing will be sealed any more.
    pub(crate) fn close(&mut self) {
        self.capability = None;
    }
}

/// Moves a held capability to the beginning of `epoch`, or drops it if there is no further epoch.
pub(crate) fn advance<T: FencedTime>(capability: &mut Option<Capability<T>>, epoch: Option<Epoch>) {
    match (epoch, capability.as_mut()) {
        (Some(epoch), Some(held)) => {
            let time = T::first_of(epoch);
            if held.time().less_than(&time) {
                held.downgrade(&time);
            }
        }
        (None, _) => *capability = None,
        _ => {}
    }
}
