//! The simulator itself: it tells the same story twice, and finds what it should.

use super::run::run;

#[test]
fn a_seed_runs() {
    for seed in 0..20 {
        let outcome = run(seed, None, true);
        if outcome.violation.is_some() {
            for line in &outcome.trace {
                println!("{line}");
            }
        }
        println!(
            "seed {seed}: {:?} {} events {:?}",
            outcome.ending, outcome.events, outcome.violation
        );
        assert_eq!(outcome.violation, None, "seed {seed}");
    }
}
