//! Lines: what a node prints and its launcher passes on.

use std::io::{BufRead, BufReader, Read};

/// The longest piece of a node's output that is printed as one line.
const OUTPUT_LINE_BYTES_MAX: u64 = 1 << 16;

/// The longest line of a node's standard error that is printed unchanged; longer lines are cut. Panics print
/// messages of arbitrary length there.
const ERROR_LINE_BYTES_MAX: u64 = 8 << 10;

/// Calls `on` with each line of `pipe`, without its end; a very long line comes in pieces.
pub(super) fn each_line(pipe: impl Read, mut on: impl FnMut(&[u8])) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A pipe that cannot be read counts as ended.
        match reader.by_ref().take(OUTPUT_LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => on(line.strip_suffix(b"\n").unwrap_or(&line)),
        }
    }
}

/// Calls `on` with each line of `pipe`, without its end; for a long line, with its beginning and its length.
pub(super) fn each_cut_line(pipe: impl Read, mut on: impl FnMut(&[u8])) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(ERROR_LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if line.last() == Some(&b'\n') => drop(line.pop()),
            Ok(read) => {
                let rest = skip_line(&mut reader);
                if rest > 0 {
                    let note = format!("... (cut: it has {} bytes)", read + rest);
                    line.extend_from_slice(note.as_bytes());
                }
            }
        }
        on(&line);
    }
}

/// Reads to the end of a line; returns how many bytes that were, without its end.
fn skip_line(reader: &mut impl BufRead) -> usize {
    let mut skipped = 0;
    loop {
        let Ok(there) = reader.fill_buf() else { return skipped };
        let end = there.iter().position(|byte| *byte == b'\n');
        let (count, ends) = (end.unwrap_or(there.len()), end.is_some() || there.is_empty());
        skipped += count;
        reader.consume(count + usize::from(end.is_some()));
        if ends {
            return skipped;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_of_standard_error_are_cut() {
        let limit = ERROR_LINE_BYTES_MAX as usize;
        let lines =
            ["short".to_owned(), "x".repeat(limit - 1), "y".repeat(limit), "z".repeat(limit + 1)];
        let cut_at = |line: &String| {
            if line.len() > limit {
                format!("{}... (cut: it has {} bytes)", &line[..limit], line.len())
            } else {
                line.clone()
            }
        };
        let expected: Vec<String> = lines.iter().map(cut_at).collect();
        for end in ["", "\n"] {
            for order in [[0, 1, 2, 3], [3, 2, 1, 0]] {
                let text = order.map(|at| lines[at].clone()).join("\n") + end;
                let mut got = Vec::new();
                each_cut_line(text.as_bytes(), |line| {
                    got.push(String::from_utf8_lossy(line).into_owned())
                });
                assert!(got == order.map(|at| expected[at].clone()), "{order:?} {end:?}");
            }
        }
    }
}
