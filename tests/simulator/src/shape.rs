//! Shape: what a seed decides before anything happens.

use std::time::Duration;

use super::chance::{Chance, mix};
use super::job::JobPlan;
use super::scenes::Scenes;
use ringfence::internals::protocol::detector::DetectorLimits;
use ringfence::internals::protocol::member::MemberLimits;
use ringfence::internals::protocol::present::PresentLimits;

/// The cluster, the job and the temper of one simulated run.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) nodes: u64,
    pub(super) partitions: u32,
    pub(super) backups: u32,
    pub(super) job: JobPlan,
    pub(super) epoch_interval: Duration,
    /// How often a checkpoint is chosen; `None` where every epoch is one.
    pub(super) checkpoint_interval: Option<Duration>,
    pub(super) in_flight_epochs_max: u64,
    pub(super) limits: MemberLimits,
    /// How long workers that do not leave are waited for.
    pub(super) present_limits: PresentLimits,
    /// How long a worker with something to do waits from one step to the next, at most.
    pub(super) pace_us: u64,
    /// How long a message takes, at most, where nothing is wrong.
    pub(super) latency_us: u64,
    /// How fast lost backups are filled again.
    pub(super) refill_bytes_per_second: u64,
    /// Snapshots and journals that are larger travel in pieces of so many bytes.
    pub(super) piece_bytes: usize,
    /// For how long faults are injected.
    pub(super) faults_us: u64,
    /// How many faults are injected, at most.
    pub(super) faults_max: u64,
    /// At one in so many events a fault is injected.
    pub(super) fault_one_in: u64,
    /// How much has to be committed in a view before something goes wrong in it; `None` where anything
    /// may go wrong at once, and most of all in a recovery.
    ///
    /// Without patience most faults come before the first commit: then there is nothing to restore.
    pub(super) patience: Option<u64>,
    /// After how long, at most, who has ended is started again; `None` where that is a fault like others.
    pub(super) absence_us: Option<u64>,
}

impl Shape {
    pub(super) fn new(seed: u64, chance: &mut Chance) -> Self {
        let nodes = chance.between(3, 5);
        // Every tenth run has the limits of the product, the others shorter ones: then more happens.
        let limits = if chance.one_in(10) {
            MemberLimits::default()
        } else {
            MemberLimits {
                detector: DetectorLimits::from_suspect_ms(chance.between(150, 1_200)),
                silent_wait_ms: chance.between(50, 400),
                evidence_wait_ms: chance.between(200, 800),
                propose_stagger_ms: chance.between(50, 300),
                holder_wait_ms: chance.between(2_000, 6_000),
                stop_limit_ms: chance.between(1_000, 3_000),
                done_wait_ms: chance.between(200, 800),
                register_retry_ms: chance.between(50, 300),
                ..MemberLimits::default()
            }
        };
        // With a clock of checkpoints epochs are short, and a checkpoint is chosen in one to six of them.
        let epoch_ms = chance.between(20, 200);
        let is_clocked = chance.one_in(3);
        let epoch_ms = if is_clocked { epoch_ms / 4 } else { epoch_ms };
        let checkpoint_ms = is_clocked.then(|| chance.between(epoch_ms, 6 * epoch_ms));
        let mut shape = Shape {
            nodes,
            // A loop wants as many as there are workers.
            partitions: chance.between(4, 12).max(nodes) as u32,
            backups: chance.between(1, 2) as u32,
            job: JobPlan {
                seed,
                records_per_shard: chance.between(20, 120),
                batch_max: chance.between(1, 4),
                keys: chance.between(5, 40),
                timers: chance.one_in(3),
                by_hand: false,
                scenes: Scenes::of(seed),
            },
            epoch_interval: Duration::from_millis(epoch_ms),
            checkpoint_interval: checkpoint_ms.map(Duration::from_millis),
            in_flight_epochs_max: chance.between(1, 5),
            limits,
            present_limits: PresentLimits { hand_over_ms: 250, await_ms: 5_000 },
            pace_us: chance.between(5_000, 60_000),
            latency_us: chance.between(200, 20_000),
            refill_bytes_per_second: chance.between(2_000, 50_000),
            piece_bytes: usize::MAX,
            faults_us: chance.between(1_000_000, 8_000_000),
            faults_max: chance.between(1, 8),
            fault_one_in: chance.between(100, 600),
            patience: None,
            absence_us: None,
        };
        // Whatever else the seed decides.
        let mut of_patience = Chance::new(mix(seed ^ mix(0x9A71E)));
        shape.patience = (!of_patience.one_in(3)).then(|| of_patience.between(1, 3));
        if shape.patience.is_some() {
            // Or the input would end before that.
            shape.job.records_per_shard *= 3;
        }
        shape.job.by_hand = chance.one_in(3);
        let mut of_pieces = Chance::new(mix(seed ^ mix(0x91ECE)));
        if of_pieces.one_in(2) {
            // A delta has some hundred bytes.
            shape.piece_bytes = of_pieces.between(50, 500) as usize;
        }
        let mut of_absence = Chance::new(mix(seed ^ mix(0xAB5E)));
        if of_absence.one_in(2) {
            // From a moment, in which nobody has noticed, to long after the others have gone on.
            shape.absence_us = Some(1 << of_absence.between(12, 22));
        }
        let mut of_closing = Chance::new(mix(seed ^ mix(0xC105E)));
        if !of_closing.one_in(10) {
            shape.present_limits = PresentLimits {
                hand_over_ms: of_closing.between(20, 400),
                await_ms: of_closing.between(500, 5_000),
            };
        }
        shape
    }
}
