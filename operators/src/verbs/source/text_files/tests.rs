use std::fs;
use std::io::Write;

use proptest::prelude::*;

use super::*;

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

/// The lines of a text, by the rule: cut at `\n`, one `\r` before it goes, what is no UTF-8 is replaced.
fn lines_of(bytes: &[u8]) -> Vec<String> {
    bytes.split_inclusive(|byte| *byte == b'\n').map(text_of).collect()
}

/// Opens a range of a file as the source would.
fn open_range(source: &TextFiles, extent: Extent, at: Option<&(u32, u64)>) -> LineReader {
    let range = Range { extent, index: 0, path: source.paths[0].clone() };
    assert_eq!(Range::parse(&range.name()).unwrap(), range);
    source.open(&range.name(), at).unwrap()
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        8 => prop::collection::vec(prop::sample::select(&b"ab\r\0\xff\xc3"[..]), 0..12),
        1 => (1_000..40_000usize).prop_map(|length| vec![b'x'; length]),
    ];
    (prop::collection::vec(line, 0..40), any::<bool>()).prop_map(|(lines, ends)| {
        let mut text = lines.join(&b'\n');
        text.extend(ends.then_some(b'\n'));
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Wherever a file is cut into ranges and wherever a reader begins anew: each line once, in order,
    /// and nothing of what was appended.
    #[test]
    fn ranges_share_the_lines_out(
        text in bytes(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        appended in bytes(),
        batches in 1..4usize,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("in.txt");
        fs::write(&path, &text).unwrap();
        let source = TextFiles::new([&path]);
        let length = source.files.get(&path).unwrap().length();
        let mut file = fs::File::options().append(true).open(&path).unwrap();
        file.write_all(&appended).unwrap();
        let mut bounds: Vec<u64> = cuts.iter().map(|cut| cut.index(text.len() + 1) as u64).collect();
        bounds.extend([0, length]);
        bounds.sort_unstable();
        let mut lines = Vec::new();
        for pair in bounds.windows(2) {
            let extent = Extent { begin: pair[0], end: pair[1], length };
            let (mut at, mut more) = (None, true);
            while more {
                let mut reader = open_range(&source, extent, at.as_ref());
                for _ in 0..batches {
                    more = more && reader.read(&mut lines).unwrap();
                }
                at = Some(reader.position());
            }
        }
        prop_assert_eq!(lines, lines_of(&text));
    }

    /// Files of any lengths are cut into ranges without a gap, and into not too many.
    #[test]
    fn cuts_leave_no_gap(lengths in prop::collection::vec(prop_oneof![0..10_000u64, 0..1u64 << 60], 1..9)) {
        let ranges = cut(&lengths);
        prop_assert!(ranges.len() <= 2 * SHARDS as usize + lengths.len());
        for (index, &length) in lengths.iter().enumerate() {
            let mut at = 0;
            for (_, extent) in ranges.iter().filter(|(of, _)| *of == index) {
                prop_assert_eq!((extent.begin, extent.length), (at, length));
                at = extent.end;
            }
            prop_assert_eq!(at, length);
        }
    }
}

#[test]
fn a_range_within_a_long_line_is_read_to_its_own_end_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.txt");
    fs::write(&path, "y".repeat(8 << 20)).unwrap();
    let source = TextFiles::new([&path]);
    let mut read_bytes = 0;
    for shard in source.shards(1).unwrap() {
        let mut reader = source.open(&shard, None).unwrap();
        let begin = Range::parse(&shard).unwrap().extent.begin;
        let mut lines = Vec::new();
        while reader.read(&mut lines).unwrap() {}
        read_bytes += reader.lines.get_ref().offset.saturating_sub(begin);
        assert_eq!(lines.len(), usize::from(begin == 0));
    }
    assert!(read_bytes < 5 * (8 << 20), "{read_bytes} bytes were read of {}", 8 << 20);
}

#[test]
fn files_that_are_others_elsewhere_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let paths = ["a", "b", "c"].map(|name| directory.path().join(name));
    paths.iter().for_each(|path| fs::write(path, "x\n").unwrap());
    let [a, b, c] = &paths;
    let decided = TextFiles::new([a, b, a]).shards(1).unwrap();
    assert!(TextFiles::new([a, b, a]).agree(&decided, 1).is_ok());
    let error = TextFiles::new([a, c, a]).agree(&decided, 1).unwrap_err().to_string();
    assert!(error.contains("shard 1 is") && error.contains("/c\" here"), "{error}");
    assert!(TextFiles::new([a, b]).agree(&decided, 1).is_err());
    assert!(TextFiles::new([a, b, a, c]).agree(&decided, 1).is_err());
}
