use std::collections::BTreeSet;

use proptest::prelude::*;
use ringfence_operators::ids::NodeId;

use super::*;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const LIMITS: DetectorLimits = DetectorLimits { beat_ms: 50, suspect_ms: 600 };
const ALONE_MS: u64 = 900;

fn none() -> BTreeSet<NodeId> {
    BTreeSet::new()
}

/// A detector that has heard both nodes every 50 ms until `until_ms`.
fn steady(until_ms: u64) -> Detector {
    let mut detector = Detector::new(LIMITS);
    detector.watch(0, [A, B]);
    for now_ms in (50..=until_ms).step_by(50) {
        assert_eq!(detector.beat(now_ms, A, none()), None);
        assert_eq!(detector.beat(now_ms, B, none()), None);
        assert_eq!(detector.judge(now_ms), []);
    }
    detector
}

/// Ticks every 10 ms, with B beating on; returns when and what was said of A first.
fn silence(detector: &mut Detector, from_ms: u64, b_suspects: &BTreeSet<NodeId>) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for now_ms in (from_ms..from_ms + 2_000).step_by(10) {
        if now_ms % 50 == 0 {
            detector.beat(now_ms, B, b_suspects.clone());
        }
        verdicts.extend(detector.judge(now_ms));
    }
    verdicts
}

#[test]
fn a_silence_that_others_do_not_share_convicts_late() {
    let mut detector = steady(1_000);
    assert_eq!(
        silence(&mut detector, 1_000, &none()),
        [
            Verdict::Suspected { node: A, silent_ms: 200 },
            Verdict::Convicted { node: A, silent_ms: ALONE_MS, votes: none() },
        ]
    );
    assert!(detector.is_silent(A));
    assert_eq!(detector.suspects(), BTreeSet::from([A]));
}

#[test]
fn a_silence_that_all_others_share_convicts_at_the_limit() {
    let mut detector = steady(1_000);
    let verdicts = silence(&mut detector, 1_000, &BTreeSet::from([A]));
    let votes = BTreeSet::from([B]);
    assert_eq!(verdicts[1], Verdict::Convicted { node: A, silent_ms: 600, votes });
}

#[test]
fn a_node_that_is_heard_again_is_cleared_and_can_be_convicted_again() {
    let mut detector = steady(1_000);
    silence(&mut detector, 1_000, &none());
    let cleared = detector.beat(3_000, A, none());
    assert!(matches!(cleared, Some(Verdict::Cleared { node: A, .. })), "{cleared:?}");
    assert!(!detector.is_silent(A));
    let again = silence(&mut detector, 3_000, &none());
    assert!(matches!(again.last(), Some(Verdict::Convicted { node: A, .. })), "{again:?}");
}

#[test]
fn who_was_acquitted_and_stays_silent_is_convicted_at_once() {
    let mut detector = steady(1_000);
    silence(&mut detector, 1_000, &none());
    detector.acquit();
    let again = detector.judge(3_000);
    assert!(matches!(again[..], [Verdict::Convicted { node: A, .. }]), "{again:?}");
}

#[test]
fn who_was_asleep_itself_blames_nobody() {
    let mut detector = steady(1_000);
    assert_eq!(detector.judge(61_000), []);
    assert_eq!(detector.beat(61_001, A, none()), None);
    assert_eq!(detector.beat(61_001, B, none()), None);
    assert_eq!(detector.judge(61_050), []);
}

#[test]
fn who_is_called_late_is_patient_for_a_while() {
    let mut detector = steady(1_000);
    let convicted_after = |detector: &mut Detector, from_ms: u64, step: usize| {
        (from_ms..from_ms + 5_000).step_by(step).find(|now_ms| {
            let verdicts = detector.judge(*now_ms);
            verdicts.iter().any(|verdict| matches!(verdict, Verdict::Convicted { .. }))
        })
    };
    // Called only every 150 ms: 100 ms late, and so may be each of three threads on the way.
    let late_ms = convicted_after(&mut detector, 1_000, 150).unwrap() - 1_000;
    assert!((900..2_000).contains(&late_ms), "convicted after {late_ms} ms");
    let mut detector = steady(20_000);
    assert_eq!(convicted_after(&mut detector, 20_000, 10), Some(20_600));
}

#[test]
fn unsteady_beats_teach_patience() {
    let mut detector = Detector::new(LIMITS);
    detector.watch(0, [A]);
    let mut now_ms = 0;
    for round in 0..40 {
        // The machine is called far more often than a beat comes.
        for _ in 0..if round % 4 == 3 { 25 } else { 3 } {
            now_ms += 10;
            detector.wake(now_ms);
        }
        detector.beat(now_ms, A, none());
    }
    let verdicts = silence(&mut detector, now_ms, &none());
    let Some(Verdict::Suspected { silent_ms, .. }) = verdicts.first() else {
        panic!("{verdicts:?}")
    };
    assert!((300..=600).contains(silent_ms), "suspected after {silent_ms} ms");
}

#[test]
fn who_is_watched_no_longer_is_not_judged() {
    let mut detector = steady(1_000);
    detector.watch(1_000, [B]);
    assert_eq!(silence(&mut detector, 1_000, &none()), []);
    assert_eq!(detector.heard(3_000, A), None);
}

proptest! {
    /// Whatever the beats were: a node that is heard in time is never convicted, and one that falls
    /// silent is, as soon as all others miss it, too.
    #[test]
    fn the_limit_bounds_every_silence(gaps in proptest::collection::vec(1_u64..590, 1..60)) {
        let mut detector = Detector::new(LIMITS);
        detector.watch(0, [A]);
        let mut now_ms = 0;
        for gap_ms in gaps {
            for _ in 0..gap_ms {
                now_ms += 1;
                let convicted =
                    detector.judge(now_ms).iter().any(|v| matches!(v, Verdict::Convicted { .. }));
                prop_assert!(!convicted);
            }
            detector.beat(now_ms, A, none());
        }
        let convicted_ms = (now_ms..now_ms + 1_000)
            .find(|at_ms| {
                detector.judge(*at_ms).iter().any(|v| matches!(v, Verdict::Convicted { .. }))
            });
        prop_assert_eq!(convicted_ms, Some(now_ms + LIMITS.suspect_ms));
    }
}
