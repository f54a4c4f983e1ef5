//! The scenes' own checks: each takes what is right, and none of what may go wrong.

use super::*;
use crate::job::LATER_EPOCHS;

fn plan(scenes: Scenes) -> JobPlan {
    JobPlan {
        seed: 5,
        records_per_shard: 9,
        batch_max: 1,
        keys: 3,
        timers: false,
        by_hand: false,
        scenes,
    }
}

/// Three records an epoch, from epoch 1 to 3.
fn arrived() -> Arrived {
    let record = |epoch: u64| move |shard| Record { shard, index: epoch };
    (1..=3).map(|epoch| (epoch, (0..3).map(record(epoch)).collect())).collect()
}

/// Rows at their epochs, numbered by key.
fn told(due: impl IntoIterator<Item = (u64, u64)>, row: impl Fn(usize, u64, u64) -> Row) -> Told {
    let (mut told, mut numbers) = (Told::new(), BTreeMap::<u64, u64>::new());
    for (index, (epoch, key)) in due.into_iter().enumerate() {
        let number = numbers.entry(key).or_default();
        *number += 1;
        told.entry(epoch).or_default().insert(row(index, key, *number));
    }
    told
}

/// Asserts that `told` is right, and that it is not when a row is missing, comes late, or is another.
fn assert_strict(
    told: &Told,
    check: impl Fn(&Told) -> Result<(), String>,
    other: impl Fn(&mut Row),
) {
    assert_eq!(check(told), Ok(()));
    for (epoch, rows) in told {
        for row in rows {
            let mut without = told.clone();
            without.entry(*epoch).or_default().remove(row);
            check(&without).expect_err("a row is missing");
            let mut late = without.clone();
            late.entry(epoch + 1).or_default().insert(row.clone());
            check(&late).expect_err("a row is late");
            let (mut changed, mut another) = (without, row.clone());
            other(&mut another);
            changed.entry(*epoch).or_default().insert(another.clone());
            check(&changed).expect_err("a row is another");
            let mut twice = told.clone();
            twice.entry(*epoch).or_default().insert(another);
            check(&twice).expect_err("a row comes twice");
        }
    }
    check(&Told::new()).expect_err("there are no rows");
}

#[test]
fn a_record_leaves_the_stash_once_at_its_epoch_with_the_next_number() {
    let (plan, arrived) = (plan(Scenes::default()), arrived());
    let records: Vec<(u64, Record)> =
        arrived.iter().flat_map(|(e, of)| of.iter().map(|record| (*e, *record))).collect();
    let due = records.iter().map(|(epoch, record)| (epoch + LATER_EPOCHS, plan.key(*record)));
    let told = told(due, |index, key, number| Row::Stash { key, number, record: records[index].1 });
    let check = |told: &Told| stash::check(&plan, &arrived, told);
    assert_strict(&told, check, |row| match row {
        Row::Stash { number, .. } => *number += 1,
        _ => unreachable!("only the stash tells here"),
    });
}

#[test]
fn a_visit_in_the_loop_is_counted_once_in_the_order_of_epochs() {
    let (plan, arrived) = (plan(Scenes::default()), arrived());
    let visits = laps::visits(&plan, &arrived);
    let all: Vec<(u64, u64, (Record, u64))> = visits
        .iter()
        .flat_map(|(epoch, of)| of.iter().map(|(key, visit)| (*epoch, *key, *visit)))
        .collect();
    assert!(all.len() > 9 && all.iter().any(|(.., (_, round))| *round > 0));
    let told = told(all.iter().map(|(epoch, key, _)| (*epoch, *key)), |index, key, count| {
        let (record, round) = all[index].2;
        Row::Lap { key, count, record, round }
    });
    let check = |told: &Told| laps::check(&plan, &arrived, told);
    assert_strict(&told, check, |row| match row {
        Row::Lap { count, .. } => *count += 1,
        _ => unreachable!("only the loop tells here"),
    });
}

#[test]
fn a_record_comes_back_one_epoch_later_each_time() {
    let (plan, arrived) = (plan(Scenes::default()), arrived());
    let turns = turns::turns(&plan, &arrived);
    let all: Vec<(u64, u64, (Record, u64))> = turns
        .iter()
        .flat_map(|(epoch, of)| of.iter().map(|(key, turn)| (*epoch, *key, *turn)))
        .collect();
    assert!(all.iter().all(|(epoch, _, (record, turn))| *epoch == record.index + turn));
    assert!(all.iter().any(|(.., (_, turn))| *turn > 0));
    let told = told(all.iter().map(|(epoch, key, _)| (*epoch, *key)), |index, key, count| {
        let (record, turn) = all[index].2;
        Row::Turn { key, count, record, turn }
    });
    let check = |told: &Told| turns::check(&plan, &arrived, told);
    assert_strict(&told, check, |row| match row {
        Row::Turn { count, .. } => *count += 1,
        _ => unreachable!("only turns are told here"),
    });
}

#[test]
fn both_sides_of_the_join_are_counted() {
    let (plan, arrived) = (plan(Scenes::default()), arrived());
    let told = join::expected(&plan, &arrived);
    let sums = told[&3].iter().map(|row| match row {
        Row::Join { left, right, .. } => (*left, *right),
        _ => unreachable!("only the join tells here"),
    });
    assert!(sums.clone().any(|(left, right)| left > 0 && right > 0), "{told:?}");
    let check = |told: &Told| join::check(&plan, &arrived, told);
    assert_strict(&told, check, |row| match row {
        Row::Join { right, .. } => *right += 1,
        _ => unreachable!("only the join tells here"),
    });
}

/// The expected changes of a scene's sinks, where each record comes in the epoch after its index.
fn assert_collections_strict(expected: fn(&JobPlan, &Arrived) -> Vec<(&'static str, Told)>) {
    let plan = plan(Scenes::default());
    let record = |index: u64| move |shard| Record { shard, index };
    let arrived: Arrived =
        (0..9).map(|index| (index + 1, (0..3).map(record(index)).collect())).collect();
    let expected = expected(&plan, &arrived);
    let all: BTreeMap<&str, Told> = expected.iter().cloned().collect();
    for (sink, told) in &all {
        let rows = || told.values().flatten();
        assert!(rows().any(|row| matches!(row, Row::Change { diff: -1, .. })), "{sink}: {told:?}");
        let check = |told: &Told| {
            let of = |name: &str| if name == *sink { told.clone() } else { all[name].clone() };
            changes::check(&expected, of)
        };
        assert_strict(told, check, |row| match row {
            Row::Change { diff, .. } => *diff += 7,
            _ => unreachable!("collections tell of changes only"),
        });
    }
}

#[test]
fn traces_tell_each_change_once_at_its_epoch() {
    assert_collections_strict(traces::expected);
}

#[test]
fn what_follows_an_edge_tells_each_change_once_at_its_epoch() {
    assert_collections_strict(edges::expected);
}

#[test]
fn each_scene_has_its_share_of_the_runs_and_they_combine() {
    let all: Vec<Scenes> = (0..900).map(Scenes::of).collect();
    let count = |has: fn(&Scenes) -> bool| all.iter().filter(|scenes| has(scenes)).count();
    let each: [fn(&Scenes) -> bool; 6] =
        [|s| s.stash, |s| s.join, |s| s.laps, |s| s.turns, |s| s.traces, |s| s.edges];
    for has in each {
        assert!((250..350).contains(&count(has)), "{}", count(has));
    }
    assert!((150..300).contains(&count(|s| s.apart)));
    assert!(count(|s| s.stash && s.laps && s.turns) > 10);
    assert!(count(|s| s.traces && s.edges) > 60);
    assert!(count(|s| *s == Scenes::default()) > 30);
}
