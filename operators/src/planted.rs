//! Bugs put in on purpose, inside the operators, for the simulator to find.
//!
//! No bug is ever at work without the feature `planted`, which no product turns on: then `is` is a
//! constant. Which bug is at work is told for each thread, since a simulated cluster is one thread.

use std::cell::Cell;

/// A bug inside the operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Results are released once all have stored an epoch, though nobody may have recorded it.
    OneRound,
    /// Each operator's epochs are recorded by themselves, not the least over all operators.
    RecordPerOperator,
    /// How to undo an epoch is forgotten when it is sealed, not when it is recorded.
    PruneAtSeal,
    /// Snapshots above the resume epoch are kept when a view is installed.
    KeepAboveResume,
    /// A worker begins later epochs while a checkpoint is being chosen.
    BeginWhileChoosing,
    /// A vault folds what is stored, recorded or not.
    FoldStored,
    /// Journals are cut at the resume epoch when a view is installed.
    JournalCutAtResume,
    /// Only the first backup of a share is sent what was fed.
    JournalFirstBackupOnly,
    /// What was fed is admitted before the backups have it.
    AdmittedAtOnce,
    /// A backup goes on with its own journal, whatever the new owner's says.
    JournalNotReconciled,
    /// What waits in a stash is there again after a failure, but not the right to answer.
    StashNotHeld,
    /// What is on its way round a loop of epochs is not part of the checkpoint.
    TurnsLeftOut,
    /// The first update of what a log restores is lost.
    TraceLosesFirst,
    /// What came again of the resume epoch passes for new behind a hydrated edge.
    ReleasedEpochPasses,
    /// An edge logs its restored contents as if they were new.
    ContentsLoggedAgain,
    /// A trace shows what it was restored with to those who act on what is new.
    RestoredShown,
    /// A trace leaves out what it was restored with where it is read up to a frontier.
    RestoredUnseen,
    /// The output of a reduction begins empty where it is not kept.
    OutputBeginsEmpty,
    /// A complete copy takes the chunks by which others are filled, too.
    FillingTakenTwice,
    /// Copies are filled with new chunks only.
    LackingForgotten,
    /// An owner's own copy of a trace is not fed.
    OwnerNotFed,
    /// Chunks are merged with times advanced to what is stored, recorded or not.
    MergeAhead,
    /// Keys of one epoch are taken for those of another in a chunk.
    PlacesKept,
    /// What has come of a snapshot's pieces is forgotten between two steps, and the rest passes over.
    PiecesForgotten,
    /// What is stored after a view was closed is taken.
    StoreAfterClose,
    /// What is recorded after a view was closed is taken.
    RecordAfterClose,
}

thread_local! {
    static PLANTED: Cell<Option<Planted>> = const { Cell::new(None) };
}

/// Puts a bug into the operators of this thread, or takes it out.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Planted>) {
    PLANTED.set(bug);
}

/// Whether this bug is at work on this thread.
#[inline]
pub(crate) fn is(bug: Planted) -> bool {
    cfg!(feature = "planted") && PLANTED.get() == Some(bug)
}
