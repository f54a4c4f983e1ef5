//! Plants: bugs put in on purpose, to see that the simulator finds them.
//!
//! Most are put in from outside, by what lies around the product's code: the vault's wrapper, the way
//! to the register, the sinks' target. Those that need other code are compiled only with the feature
//! `planted`, which no product has.

use std::fmt;
use std::str::FromStr;

macro_rules! plants {
    ($($(#[$doc:meta])* $plant:ident, $name:literal, $seeds:literal, $inside:literal;)*) => {
        /// A bug put in on purpose.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Plant {
            $($(#[$doc])* $plant,)*
        }

        /// Every plant: its name, within how many seeds it must be caught, and whether it needs the
        /// feature `planted`.
        pub const PLANTS: &[(Plant, &str, u64, bool)] =
            &[$((Plant::$plant, $name, $seeds, $inside),)*];
    };
}

plants! {
    /// A survivor undoes all but the first of the epochs that it should.
    RewindOneShort, "rewind-one-short", 20, false;
    /// A survivor undoes nothing.
    UndoSkipped, "undo-skipped", 20, false;
    /// A copy that is not whole is counted as one.
    FillingCopyCounted, "filling-copy-counted", 60, false;
    /// A view names a member that gave no evidence.
    MemberWithoutEvidence, "member-without-evidence", 20, false;
    /// A node gives evidence while its workers still run.
    EvidenceBeforeStop, "evidence-before-stop", 20, false;
    /// A node that gave evidence takes part in the old view again.
    NoPromise, "no-promise", 20, false;
    /// The next view's resume epoch forgets that of the one before.
    ResumeIgnoresRegister, "resume-ignores-register", 40, false;
    /// A restarted node passes for the one that it was.
    SameIncarnation, "same-incarnation", 80, false;
    /// A node that the others went on without is let in again, with its old vault.
    ExcludedReturns, "excluded-returns", 20, false;
    /// Who loses a number proposes at the next one.
    LoserGoesOn, "loser-goes-on", 60, false;
    /// A register takes a second view of a number.
    NumberReused, "number-reused", 400, false;
    /// Backups lie on their owner's node.
    BackupOnOwner, "backup-on-owner", 5, false;
    /// What is released again is written again.
    SinkNotIdempotent, "sink-not-idempotent", 40, false;
    /// A damaged snapshot is dropped and counts as stored.
    DamageSwallowed, "damage-swallowed", 60, false;
    /// A backup loses a snapshot now and then and counts it as stored.
    DeltaDropped, "delta-dropped", 20, false;
    /// Results are released after the first round of the commit.
    OneRound, "one-round", 20, true;
    /// Epochs are recorded operator by operator.
    RecordPerOperator, "record-per-operator", 20, true;
    /// What is needed to undo an epoch is dropped too early.
    PruneAtSeal, "prune-at-seal", 40, true;
    /// Snapshots above the resume epoch survive a change of views.
    KeepAboveResume, "keep-above-resume", 20, true;
    /// A worker acts on later epochs while a checkpoint is being chosen.
    BeginWhileChoosing, "begin-while-choosing", 200, true;
    /// A vault folds what is not recorded.
    FoldStored, "fold-stored", 40, true;
    /// Journals of hand-fed input are cut at the resume epoch.
    JournalCutAtResume, "journal-cut-at-resume", 80, true;
    /// Only the first backup of a share is sent its journal.
    JournalFirstBackupOnly, "journal-first-backup-only", 150, true;
    /// Hand-fed input is let into the dataflow, and its epochs pass, before the backups have it.
    AdmittedAtOnce, "admitted-at-once", 400, true;
    /// A backup goes on with its own journal, whatever the new owner's says.
    JournalNotReconciled, "journal-not-reconciled", 300, true;
    /// What waits in a stash is forgotten in a restore.
    StashNotHeld, "stash-not-held", 60, true;
    /// Records on their way from one epoch to the next are left out of the checkpoint.
    TurnsLeftOut, "turns-left-out", 120, true;
    /// A survivor undoes everything but the state inside of a loop.
    LoopNotRewound, "loop-not-rewound", 120, false;
    /// The first update of what a log restores is lost.
    TraceLosesFirst, "trace-loses-first", 60, true;
    /// What came again of the resume epoch passes for new behind a hydrated edge.
    ReleasedEpochPasses, "released-epoch-passes", 60, true;
    /// An edge logs its restored contents as if they were new.
    ContentsLoggedAgain, "contents-logged-again", 150, true;
    /// A trace shows what it was restored with to those who act on what is new.
    RestoredShown, "restored-shown", 80, true;
    /// A trace leaves out what it was restored with where it is read up to a frontier.
    RestoredUnseen, "restored-unseen", 60, true;
    /// The output of a reduction begins empty where it is not kept.
    OutputBeginsEmpty, "output-begins-empty", 60, true;
    /// A complete copy takes the chunks by which others are filled, too.
    FillingTakenTwice, "filling-taken-twice", 1_000, true;
    /// Copies are filled with new chunks only.
    LackingForgotten, "lacking-forgotten", 400, true;
    /// An owner's own copy of a trace is not fed.
    OwnerNotFed, "owner-not-fed", 60, true;
    /// Chunks are merged with times advanced to what is stored, recorded or not.
    MergeAhead, "merge-ahead", 250, true;
    /// Keys of one epoch are taken for those of another in a chunk.
    PlacesKept, "places-kept", 150, true;
    /// What has come of a snapshot's pieces is forgotten between two steps, and the rest passes over.
    PiecesForgotten, "pieces-forgotten", 60, true;
    /// A node gives evidence of a generation that is closed only later.
    EvidenceBeforeClose, "evidence-before-close", 160, false;
    /// The live state of a worker that has not left is counted as handed over.
    AbandonedLiveCounted, "abandoned-live-counted", 60, false;
    /// Nobody is told that the state of a busy worker may still come.
    AwaitingUnsaid, "awaiting-unsaid", 80, false;
    /// That nothing is awaited any more is said before the evidence that has what came.
    AwaitingFirst, "awaiting-first", 2_000, false;
    /// A vault stores what comes after its view was closed.
    StoreAfterClose, "store-after-close", 250, true;
    /// A worker runs before all of its data connections stand.
    StartBeforeLinked, "start-before-linked", 40, true;
    /// Evidence is given when workers are asked to leave, not when they have left.
    EvidenceBeforeJoined, "evidence-before-joined", 100, true;
    /// Every data connection that is ahead may wait.
    WaitingUnbounded, "waiting-unbounded", 40, true;
    /// The end of a worker of a view that is over is taken for one of the present view.
    LateEndCounted, "late-end-counted", 2_000, true;
    /// A vault takes what a late worker records after its view was closed.
    RecordAfterClose, "record-after-close", 3_000, true;
    /// A copy that is being filled is taken for a whole one when a table is evened out.
    FillingCounted, "filling-counted", 800, true;
    /// Who asks to be taken in gives evidence of a view that it is not in.
    JoinerTestifies, "joiner-testifies", 40, true;
    /// Who was a member and is not any more is taken in again.
    EndedTakenIn, "ended-taken-in", 1_000, true;
    /// A node ends before all know that the job is done.
    ExitEarly, "exit-early", 20, false;
    /// What is seen of a failure is told once more, of the next view.
    FailureToldTwice, "failure-told-twice", 20, false;
}

impl Plant {
    fn entry(self) -> &'static (Plant, &'static str, u64, bool) {
        // The table has every plant: one macro makes both.
        &PLANTS[self as usize]
    }

    /// The bug inside the operators that this plant is.
    #[cfg(feature = "planted")]
    pub(super) fn inside(self) -> Option<ringfence_operators::planted::Planted> {
        use ringfence_operators::planted::Planted;
        match self {
            Plant::OneRound => Some(Planted::OneRound),
            Plant::RecordPerOperator => Some(Planted::RecordPerOperator),
            Plant::PruneAtSeal => Some(Planted::PruneAtSeal),
            Plant::KeepAboveResume => Some(Planted::KeepAboveResume),
            Plant::BeginWhileChoosing => Some(Planted::BeginWhileChoosing),
            Plant::FoldStored => Some(Planted::FoldStored),
            Plant::JournalCutAtResume => Some(Planted::JournalCutAtResume),
            Plant::JournalFirstBackupOnly => Some(Planted::JournalFirstBackupOnly),
            Plant::AdmittedAtOnce => Some(Planted::AdmittedAtOnce),
            Plant::JournalNotReconciled => Some(Planted::JournalNotReconciled),
            Plant::StashNotHeld => Some(Planted::StashNotHeld),
            Plant::TurnsLeftOut => Some(Planted::TurnsLeftOut),
            Plant::TraceLosesFirst => Some(Planted::TraceLosesFirst),
            Plant::ReleasedEpochPasses => Some(Planted::ReleasedEpochPasses),
            Plant::ContentsLoggedAgain => Some(Planted::ContentsLoggedAgain),
            Plant::RestoredShown => Some(Planted::RestoredShown),
            Plant::RestoredUnseen => Some(Planted::RestoredUnseen),
            Plant::OutputBeginsEmpty => Some(Planted::OutputBeginsEmpty),
            Plant::FillingTakenTwice => Some(Planted::FillingTakenTwice),
            Plant::LackingForgotten => Some(Planted::LackingForgotten),
            Plant::OwnerNotFed => Some(Planted::OwnerNotFed),
            Plant::MergeAhead => Some(Planted::MergeAhead),
            Plant::PlacesKept => Some(Planted::PlacesKept),
            Plant::PiecesForgotten => Some(Planted::PiecesForgotten),
            Plant::StoreAfterClose => Some(Planted::StoreAfterClose),
            Plant::RecordAfterClose => Some(Planted::RecordAfterClose),
            _ => None,
        }
    }

    /// The bug inside the protocol that this plant is.
    #[cfg(feature = "planted")]
    pub(super) fn inside_protocol(
        self,
    ) -> Option<ringfence::internals::protocol::planted::Planted> {
        use ringfence::internals::protocol::planted::Planted;
        match self {
            Plant::StartBeforeLinked => Some(Planted::StartBeforeLinked),
            Plant::EvidenceBeforeJoined => Some(Planted::EvidenceBeforeJoined),
            Plant::WaitingUnbounded => Some(Planted::WaitingUnbounded),
            Plant::LateEndCounted => Some(Planted::LateEndCounted),
            Plant::FillingCounted => Some(Planted::FillingCounted),
            Plant::JoinerTestifies => Some(Planted::JoinerTestifies),
            Plant::EndedTakenIn => Some(Planted::EndedTakenIn),
            _ => None,
        }
    }

    /// Within how many seeds it must be caught.
    pub fn seeds(self) -> u64 {
        self.entry().2
    }

    /// Whether it is in code that only the feature `planted` compiles.
    pub fn needs_feature(self) -> bool {
        self.entry().3
    }
}

impl fmt::Display for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry().1)
    }
}

impl FromStr for Plant {
    type Err = String;

    fn from_str(text: &str) -> Result<Plant, String> {
        let found = PLANTS.iter().find(|(_, name, ..)| *name == text);
        found.map(|(plant, ..)| *plant).ok_or_else(|| {
            let names: Vec<&str> = PLANTS.iter().map(|(_, name, ..)| *name).collect();
            format!("no bug is called \"{text}\"; there are {}", names.join(", "))
        })
    }
}
