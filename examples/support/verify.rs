//! Checks the output of a word count against a plain computation.
//!
//! Over all output files, every word must have each n from 1 to its count exactly once. One bit per
//! expected line is enough to find that out.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

/// How many differences are kept to be shown; all are counted.
const DIFFERENCES_SHOWN_MAX: usize = 10;

/// The largest piece of a foreign line that is shown.
const SHOWN_BYTES_MAX: usize = 60;

/// One way in which the output is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A line stands there twice.
    Doubled { word: String, n: u64 },
    /// A line is missing.
    Lost { word: String, n: u64 },
    /// A line counts further than the word occurs.
    Beyond { word: String, n: u64, count: u64 },
    /// A line is about a word that the input does not have.
    Foreign { word: String },
    /// A line is not `word<TAB>n`.
    Malformed { file: PathBuf, line: u64, text: String },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Doubled { word, n } => write!(f, "doubled: {word} {n}"),
            Difference::Lost { word, n } => write!(f, "lost: {word} {n}"),
            Difference::Beyond { word, n, count } => {
                write!(f, "altered: {word} {n}, but the word occurs {count} times")
            }
            Difference::Foreign { word } => write!(f, "altered: {word:?} is no word of the input"),
            Difference::Malformed { file, line, text } => {
                write!(f, "malformed: {}:{line}: {text:?}", file.display())
            }
        }
    }
}

/// What the comparison came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Different words in the input.
    pub words: u64,
    /// Occurrences of words in the input, over all passes: so many lines must there be.
    pub occurrences: u64,
    /// Lines in the output.
    pub lines: u64,
    /// How many differences there are.
    pub difference_count: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
}

impl Verdict {
    /// Whether every occurrence was counted exactly once.
    pub fn is_exactly_once(&self) -> bool {
        self.difference_count == 0
    }

    fn note(&mut self, difference: Difference) {
        self.difference_count += 1;
        if self.differences.len() < DIFFERENCES_SHOWN_MAX {
            self.differences.push(difference);
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { words, occurrences, lines, difference_count, .. } = self;
        if self.is_exactly_once() {
            return write!(
                f,
                "verified: exactly once ({occurrences} occurrences of {words} words, {lines} lines)"
            );
        }
        write!(
            f,
            "NOT exactly once: {difference_count} differences in {lines} lines, where \
             {occurrences} were expected"
        )?;
        for difference in &self.differences {
            write!(f, "\n  {difference}")?;
        }
        if *difference_count > self.differences.len() as u64 {
            write!(f, "\n  and so on")?;
        }
        Ok(())
    }
}

/// Compares all files directly under `dir`, but those whose name begins with a dot, with the word
/// counts of `files`, each read `passes` times.
pub fn verify(files: &[PathBuf], passes: u64, dir: &Path) -> io::Result<Verdict> {
    let mut expected = Expected::of(files, passes)?;
    let mut outputs = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| named(dir, error))? {
        let path = entry?.path();
        let is_hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        if path.is_file() && !is_hidden {
            outputs.push(path);
        }
    }
    outputs.sort();
    for path in &outputs {
        expected.strike_out(path).map_err(|error| named(path, error))?;
    }
    Ok(expected.into_verdict())
}

/// A word of the input: how often it occurs, and where its bits begin.
struct Word {
    count: u64,
    first_bit: u64,
}

struct Expected {
    words: HashMap<Box<[u8]>, Word>,
    /// One bit for each occurrence, set once its line was seen.
    seen: Vec<u64>,
    verdict: Verdict,
}

impl Expected {
    fn of(files: &[PathBuf], passes: u64) -> io::Result<Self> {
        let mut words: HashMap<Box<[u8]>, Word> = HashMap::new();
        let mut lower = Vec::new();
        for path in files {
            let bytes = std::fs::read(path).map_err(|error| named(path, error))?;
            for word in bytes.split(|b| !b.is_ascii_alphabetic()).filter(|w| !w.is_empty()) {
                lower.clear();
                lower.extend(word.iter().map(u8::to_ascii_lowercase));
                match words.get_mut(lower.as_slice()) {
                    Some(word) => word.count += passes,
                    None => {
                        let word = Word { count: passes, first_bit: 0 };
                        words.insert(lower.as_slice().into(), word);
                    }
                }
            }
        }
        let mut bits = 0;
        for word in words.values_mut() {
            word.first_bit = bits;
            bits += word.count;
        }
        let verdict =
            Verdict { words: words.len() as u64, occurrences: bits, ..Verdict::default() };
        Ok(Expected { words, seen: vec![0; bits.div_ceil(64) as usize], verdict })
    }

    fn strike_out(&mut self, path: &Path) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(1 << 18, File::open(path)?);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            self.verdict.lines += 1;
            match parse(&line) {
                Some((word, n)) => self.strike_out_line(word, n),
                None => {
                    let file = path.to_owned();
                    self.verdict.note(Difference::Malformed {
                        file,
                        line: number,
                        text: shown(&line),
                    });
                }
            }
        }
        Ok(())
    }

    fn strike_out_line(&mut self, word: &[u8], n: u64) {
        let Some(Word { count, first_bit }) = self.words.get(word) else {
            return self.verdict.note(Difference::Foreign { word: shown(word) });
        };
        if n == 0 || n > *count {
            let (word, count) = (shown(word), *count);
            return self.verdict.note(Difference::Beyond { word, n, count });
        }
        let bit = first_bit + n - 1;
        let (cell, mask) = (&mut self.seen[(bit / 64) as usize], 1 << (bit % 64));
        if *cell & mask != 0 {
            self.verdict.note(Difference::Doubled { word: shown(word), n });
        }
        *cell |= mask;
    }

    fn into_verdict(mut self) -> Verdict {
        if self.seen.iter().map(|cell| u64::from(cell.count_ones())).sum::<u64>()
            == self.verdict.occurrences
        {
            return self.verdict;
        }
        // In the order of the words, so that the same output has the same verdict.
        let mut words: Vec<_> = self.words.into_iter().collect();
        words.sort_by(|a, b| a.0.cmp(&b.0));
        for (word, Word { count, first_bit }) in words {
            for n in 1..=count {
                let bit = first_bit + n - 1;
                if self.seen[(bit / 64) as usize] & (1 << (bit % 64)) == 0 {
                    self.verdict.note(Difference::Lost { word: shown(&word), n });
                }
            }
        }
        self.verdict
    }
}

/// Reads `word<TAB>n<LF>`. A number has one form only: digits, without leading zeros.
fn parse(line: &[u8]) -> Option<(&[u8], u64)> {
    let line = line.strip_suffix(b"\n")?;
    let tab = line.iter().position(|b| *b == b'\t')?;
    let (word, digits) = (&line[..tab], &line[tab + 1..]);
    if digits.is_empty() || digits.len() > 18 || (digits[0] == b'0' && digits.len() > 1) {
        return None;
    }
    let mut n = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        n = n * 10 + u64::from(digit - b'0');
    }
    Some((word, n))
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)]).into_owned()
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An input, its right output in two files, and a change to the second of them.
    fn verdict_after(change: impl Fn(&str) -> String) -> Verdict {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("in.txt");
        std::fs::write(&input, "The cat\nthe\tDOG; the2cat").unwrap();
        let out = dir.path().join("totals");
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join(".marker"), "not a line").unwrap();
        std::fs::write(out.join("a"), "the\t2\ncat\t1\nthe\t1\nthe\t6\ncat\t4\n").unwrap();
        let second = "cat\t3\nthe\t5\nthe\t3\nthe\t4\ndog\t2\ncat\t2\ndog\t1\n";
        std::fs::write(out.join("b"), change(second)).unwrap();
        verify(&[input], 2, &out).unwrap()
    }

    #[test]
    fn the_right_output_is_exactly_once() {
        let verdict = verdict_after(str::to_owned);
        assert!(verdict.is_exactly_once(), "{verdict}");
        assert_eq!((verdict.words, verdict.occurrences, verdict.lines), (3, 12, 12));
    }

    #[test]
    fn one_line_doubled_fails() {
        let verdict = verdict_after(|text| format!("{text}dog\t1\n"));
        assert_eq!(verdict.differences, [Difference::Doubled { word: "dog".to_owned(), n: 1 }]);
    }

    #[test]
    fn one_line_lost_fails() {
        let verdict = verdict_after(|text| text.replace("the\t5\n", ""));
        assert_eq!(verdict.differences, [Difference::Lost { word: "the".to_owned(), n: 5 }]);
    }

    #[test]
    fn one_line_altered_fails() {
        let lost = Difference::Lost { word: "dog".to_owned(), n: 2 };
        for (altered, difference) in [
            ("dog\t1", Difference::Doubled { word: "dog".to_owned(), n: 1 }),
            ("dog\t3", Difference::Beyond { word: "dog".to_owned(), n: 3, count: 2 }),
            ("dog\t0", Difference::Beyond { word: "dog".to_owned(), n: 0, count: 2 }),
            ("dig\t2", Difference::Foreign { word: "dig".to_owned() }),
            ("cat\t2", Difference::Doubled { word: "cat".to_owned(), n: 2 }),
        ] {
            let verdict = verdict_after(|text| text.replace("dog\t2", altered));
            assert_eq!(verdict.differences, [difference, lost.clone()], "{altered}");
        }
        for altered in ["dog 2", "dog\t", "dog\t02", "dog\t-2", "dog\t2\t", "dog\t2\r", "", "\u{0}"]
        {
            let verdict = verdict_after(|text| text.replace("dog\t2", altered));
            assert_eq!(verdict.difference_count, 2, "{altered:?}: {verdict}");
            assert!(matches!(verdict.differences[0], Difference::Malformed { line: 5, .. }));
        }
    }

    #[test]
    fn a_torn_last_line_fails() {
        let verdict = verdict_after(|text| text.trim_end().to_owned());
        assert_eq!(verdict.difference_count, 2, "{verdict}");
    }

    #[test]
    fn many_differences_are_counted_and_the_first_shown() {
        let verdict = verdict_after(|text| format!("{text}{}", "x\t1\n".repeat(99)));
        assert_eq!((verdict.difference_count, verdict.differences.len()), (99, 10));
        assert!(verdict.to_string().ends_with("and so on"), "{verdict}");
    }
}
