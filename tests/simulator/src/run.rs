//! Run: one seed, from its first event to its verdict.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::faults::FaultCounts;
use super::plant::Plant;
use super::quiet::Quiet;
use super::verdict::Ending;
use super::world::World;

/// What became of one seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// A hash over everything that happened, in order.
    pub hash: u64,
    /// How much time passed in the simulation.
    pub simulated_us: u64,
    /// How many events there were.
    pub events: u64,
    /// How many views were agreed.
    pub views: u64,
    /// How many processes were taken in by later views than the first.
    pub joined: u64,
    /// How many planned views moved partitions.
    pub moved: u64,
    /// How many recoveries there were: views that somebody stopped.
    pub recoveries: u64,
    /// How many releases came again.
    pub repeated_releases: u64,
    /// The faults that fired.
    pub faults: FaultCounts,
    /// How it ended.
    pub ending: Ending,
    /// What was broken, if anything was.
    pub violation: Option<String>,
    /// What happened, line by line, where it was asked for.
    pub trace: Vec<String>,
}

/// Simulates one seed.
pub fn run(seed: u64, plant: Option<Plant>, traced: bool) -> Outcome {
    let quiet = Quiet::new();
    super::job::panic_after(0);
    #[cfg(feature = "planted")]
    {
        ringfence_operators::planted::plant(plant.and_then(Plant::inside));
        ringfence::internals::protocol::planted::plant(plant.and_then(Plant::inside_protocol));
    }
    let mut world = World::new(seed, plant, traced);
    let ran = catch_unwind(AssertUnwindSafe(|| world.run()));
    if ran.is_err() {
        world.violate(format!("panic: {}", Quiet::last()));
    }
    let outcome = Outcome {
        seed,
        hash: world.trace.hash(),
        simulated_us: world.now_us,
        events: world.events,
        views: world.views.len() as u64,
        joined: world.joined(),
        moved: world.moved(),
        recoveries: world.recoveries.len() as u64,
        repeated_releases: world.target.repeated(),
        faults: world.counts.clone(),
        ending: world.ending(),
        violation: world.broken.take(),
        trace: std::mem::take(&mut world.trace).into_lines(),
    };
    // What broke off in the middle may panic once more on its way out.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(world)));
    drop(quiet);
    outcome
}
