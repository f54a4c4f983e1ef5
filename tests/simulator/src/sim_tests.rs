//! The simulator itself: it tells the same story twice, its faults fire, and it finds planted bugs.

use std::ops::Range;

use super::command::Sweep;
use super::faults::{FAULTS, Fault};
use super::plant::{PLANTS, Plant};
use super::run::run;

/// Seeds of the short share. The command runs as many as one wants.
const SHARE: Range<u64> = 0..40;

fn sweep(seeds: Range<u64>) -> Sweep {
    Sweep { seeds, plant: None, trace: false, limit: None, threads: 1 }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let mut hashes = Vec::new();
    for seed in [1, 7, 11, 17] {
        let [told, untold] = [true, false].map(|traced| run(seed, None, traced));
        assert_eq!(told.hash, untold.hash, "seed {seed}");
        assert_eq!(told.events, untold.events, "seed {seed}");
        assert!(!told.trace.is_empty() && untold.trace.is_empty());
        let again = run(seed, None, true);
        assert_eq!(told.trace, again.trace, "seed {seed}");
        hashes.push(told.hash);
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 4, "different seeds tell different stories");
}

#[test]
fn a_share_of_seeds_breaks_nothing_and_most_faults_fire() {
    let totals = sweep(SHARE).run();
    assert_eq!(totals.violations, []);
    assert!(totals.endings[0] > SHARE.end / 2, "most jobs finish: {:?}", totals.endings);
    assert!(totals.comebacks.iter().all(|count| *count > 0), "{:?}", totals.comebacks);
    assert!(totals.recoveries > SHARE.end && totals.repeated_releases > 0);
    let silent: Vec<Fault> = FAULTS
        .iter()
        .map(|(fault, _)| *fault)
        .filter(|fault| totals.faults.of(*fault).0 == 0)
        .collect();
    assert!(silent.len() <= 3, "these faults never fired: {silent:?}");
    let in_recovery = FAULTS.iter().filter(|(fault, _)| totals.faults.of(*fault).1 > 0).count();
    assert!(in_recovery > FAULTS.len() / 2, "{in_recovery} kinds fired in a recovery");
}

/// Runs seeds until one catches the bug, and returns what it says.
fn caught(plant: Plant) -> (u64, String) {
    let found =
        (0..plant.seeds()).find_map(|seed| Some((seed, run(seed, Some(plant), false).violation?)));
    found.unwrap_or_else(|| panic!("{plant} was not caught within {} seeds", plant.seeds()))
}

fn catch_all(chosen: impl Fn(usize, u64) -> bool) {
    let here = |needs_feature: bool| cfg!(feature = "planted") || !needs_feature;
    for (index, (plant, name, seeds, needs_feature)) in PLANTS.iter().enumerate() {
        if chosen(index, *seeds) && here(*needs_feature) {
            let (seed, what) = caught(*plant);
            println!("{name}: seed {seed}: {what}");
            assert_eq!(name.parse(), Ok(*plant));
        }
    }
}

/// Bugs that show within so many seeds are looked for in each test run.
const SOON: u64 = 80;

#[test]
#[cfg_attr(debug_assertions, ignore = "takes a minute without optimisation")]
fn every_second_planted_bug_that_shows_soon_is_caught() {
    catch_all(|index, seeds| index % 2 == 0 && seeds <= SOON);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes a minute without optimisation")]
fn every_other_planted_bug_that_shows_soon_is_caught() {
    catch_all(|index, seeds| index % 2 == 1 && seeds <= SOON);
}

/// ```text
/// cargo test --release -p ringfence-simulator --features planted -- --ignored
/// ```
#[test]
#[ignore = "some minutes, and more without optimisation"]
fn every_planted_bug_that_shows_late_is_caught() {
    catch_all(|_, seeds| seeds > SOON);
}

#[test]
fn a_bug_of_another_build_is_not_taken_for_caught() {
    let inside = PLANTS.iter().filter(|(.., needs_feature)| *needs_feature);
    assert_eq!(inside.count(), 33);
    assert!("no-such-bug".parse::<Plant>().is_err());
}
