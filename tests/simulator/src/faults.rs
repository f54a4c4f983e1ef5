//! Faults: what may go wrong, and a count of what did.

use std::collections::BTreeMap;

macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident, $name:literal;)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[$doc])* $fault,)*
        }

        /// Every kind of fault, with its name.
        pub const FAULTS: &[(Fault, &str)] = &[$((Fault::$fault, $name),)*];
    };
}

faults! {
    /// A process ends between two events.
    Crash, "crash";
    /// A process ends in the middle of a worker's activation.
    CrashInside, "crash inside an activation";
    /// A node is started again, with empty memory.
    Restart, "restart";
    /// A data connection breaks.
    LinkLost, "loss of a data link";
    /// A data connection breaks before it is answered, and is made again.
    DialAgain, "dial again";
    /// A control connection breaks.
    ControlLost, "loss of a control link";
    /// A direction between two nodes is slow for a while.
    Delay, "delay";
    /// A message overtakes an older one of another link.
    Reordering, "reordering between links";
    /// Two groups of nodes cannot reach each other.
    PartitionSymmetric, "partition, symmetric";
    /// One group of nodes cannot reach the other, which can reach it.
    PartitionOneWay, "partition, one way";
    /// Two groups of nodes reach each other only through one node.
    PartitionBridge, "partition, bridge";
    /// A process stops for a while and wakes with all that has come in.
    Hang, "hang";
    /// A process is slow for a while.
    SlowNode, "slow node";
    /// A worker does not give up its thread for a while.
    HungWorker, "hung worker";
    /// A worker does not hear for a while that it is to leave, and goes on.
    DeafWorker, "deaf worker";
    /// A worker panics between two updates.
    WorkerPanic, "panic of a worker";
    /// A worker panics in the middle of an update.
    UpdatePanic, "panic inside an update";
    /// A snapshot is cut short on its way to a backup.
    TornSnapshot, "torn snapshot";
    /// A bit of a snapshot is flipped on its way to a backup.
    FlippedSnapshot, "flipped bit of a snapshot";
    /// The register takes its time.
    RegisterSlow, "slow register";
    /// The register fails.
    RegisterFails, "failing register";
    /// The register does as told, and its answer is lost.
    RegisterLosesAnswer, "lost answer of the register";
    /// A sink's target fails.
    SinkFails, "failing sink";
    /// A sink's target is slow.
    SinkSlow, "slow sink";
}

/// How often each kind of fault fired.
#[derive(Clone, Debug, Default)]
pub struct FaultCounts(BTreeMap<Fault, (u64, u64)>);

impl FaultCounts {
    /// Notes a fault, and whether a recovery was under way.
    pub fn note(&mut self, fault: Fault, in_recovery: bool) {
        let (fired, during) = self.0.entry(fault).or_default();
        *fired += 1;
        *during += u64::from(in_recovery);
    }

    /// Returns how often a fault fired, and how often of these in a recovery.
    pub fn of(&self, fault: Fault) -> (u64, u64) {
        self.0.get(&fault).copied().unwrap_or_default()
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &FaultCounts) {
        for (fault, (fired, during)) in &other.0 {
            let sum = self.0.entry(*fault).or_default();
            *sum = (sum.0 + fired, sum.1 + during);
        }
    }
}
