//! The verifier of these tests must itself notice what it is for.

use std::fs;

use crate::support::{Place, check};

#[test]
fn a_line_doubled_lost_or_altered_is_noticed() {
    let place = Place::new(20_000, 1);
    let ran = place.word_count("-w 2", 1);
    ran.assert_success();
    let totals = place.out().join("totals");
    assert_eq!(check(&place.input, 1, &totals), Ok(()));
    let part = fs::read_dir(&totals).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read_to_string(&part).unwrap();
    let first = whole.lines().next().unwrap();
    let (word, n) = first.split_once('\t').unwrap();

    let doubled = format!("{whole}{first}\n");
    let lost = whole.replacen(&format!("{first}\n"), "", 1);
    let altered = whole.replacen(first, &format!("{word}\t{n}9999"), 1);
    for (what, text) in [("twice", doubled), ("lines, expected", lost), ("should not be", altered)]
    {
        fs::write(&part, text).unwrap();
        let noticed = check(&place.input, 1, &totals).unwrap_err();
        assert!(noticed.contains(what), "{noticed}");
    }
}
