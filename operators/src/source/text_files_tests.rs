use super::*;
use std::fs;

fn read_all(source: &TextFiles, stop_after: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for shard in source.shards(1).unwrap() {
        let mut at = None;
        loop {
            // Reopened after each few batches, as after a failure.
            let mut reader = source.open(&shard, at.as_ref()).unwrap();
            let mut more = true;
            for _ in 0..stop_after {
                more = more && reader.read(&mut lines).unwrap();
            }
            at = Some(reader.position());
            if !more {
                assert_eq!(
                    source.consumed(&shard, &reader.position()),
                    source.extent(&shard).unwrap()
                );
                break;
            }
        }
    }
    lines
}

#[test]
fn every_line_is_read_once_a_pass_wherever_the_ranges_cut() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lines.txt");
    let text: String = (0..40_000).map(|n| format!("line {n}{}\n", "x".repeat(n % 50))).collect();
    fs::write(&path, format!("{text}last line without an end")).unwrap();
    let empty = directory.path().join("empty.txt");
    fs::write(&empty, "").unwrap();
    for passes in [1, 3] {
        let source = TextFiles::new([&path, &empty, &path]).passes(passes);
        let mut expected: Vec<String> = Vec::new();
        for _ in 0..2 * passes {
            expected.extend(text.lines().map(str::to_owned));
            expected.push("last line without an end".to_owned());
        }
        for stop_after in [1, 1000] {
            let mut lines = read_all(&source, stop_after);
            lines.sort_unstable();
            expected.sort_unstable();
            assert_eq!(lines, expected);
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = TextFiles::new(["/nonexistent/a.txt"]).shards(1).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/a.txt"), "{error}");
}
