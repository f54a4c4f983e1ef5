//! Text files, line by line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{Reader, Source};

/// How much is read at once: small enough for the worker to stay responsive.
const BATCH_BYTES: u64 = 32 << 10;

/// About how many shards the files are split into: as many as there are partitions by default.
const SHARDS: u64 = 256;

/// The least a shard holds, so that small files are not cut to pieces.
const SHARD_BYTES_MIN: u64 = 4 << 10;

/// A source of the lines of text files, without their line ends.
///
/// Each file is cut into ranges of bytes, which are the shards; a line belongs to the range in which
/// it begins. The files must be readable under the same paths on every node and must not change
/// during a run. Bytes that are not UTF-8 are replaced, as by [`String::from_utf8_lossy`].
///
/// ```
/// use ringfence_operators::prelude::*;
///
/// let lines = TextFiles::new(["a.txt", "b.txt"]).passes(3);
/// # let _ = lines;
/// ```
#[derive(Clone, Debug)]
pub struct TextFiles {
    paths: Vec<PathBuf>,
    passes: u32,
}

impl TextFiles {
    /// The lines of `paths`.
    pub fn new<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Self {
        TextFiles { paths: paths.into_iter().map(Into::into).collect(), passes: 1 }
    }

    /// Reads every file `passes` times over.
    pub fn passes(mut self, passes: u32) -> Self {
        self.passes = passes;
        self
    }
}

/// A range of a file, as the name of a shard spells it: `begin-end:index:path`.
struct Range<'a> {
    begin: u64,
    end: u64,
    path: &'a Path,
}

impl<'a> Range<'a> {
    fn parse(shard: &'a str) -> io::Result<Self> {
        let parse = || {
            let (range, rest) = shard.split_once(':')?;
            let (_index, path) = rest.split_once(':')?;
            let (begin, end) = range.split_once('-')?;
            Some(Range {
                begin: begin.parse().ok()?,
                end: end.parse().ok()?,
                path: Path::new(path),
            })
        };
        parse().ok_or_else(|| {
            let what = format!("\"{shard}\" is not a range of a file such as 0-4096:0:a.txt");
            io::Error::new(io::ErrorKind::InvalidInput, what)
        })
    }
}

fn about(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))
}

impl Source for TextFiles {
    type Item = String;
    /// The pass and the offset in the file.
    type Position = (u32, u64);
    type Reader = LineReader;

    fn shards(&self, _share_count: u32) -> io::Result<Vec<String>> {
        if self.paths.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no input files were given"));
        }
        let mut lengths = Vec::new();
        for path in &self.paths {
            // Opening tells now, not in the middle of the run, that a file cannot be read.
            let file = File::open(path).map_err(|error| about(path, error))?;
            let metadata = file.metadata().map_err(|error| about(path, error))?;
            if !metadata.is_file() {
                let what = format!("cannot read {}: not a regular file", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            }
            if path.to_str().is_none() {
                let what = format!("cannot read {}: its name is not UTF-8", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            }
            lengths.push(metadata.len());
        }
        let total: u64 = lengths.iter().sum();
        let shard_bytes = (total / SHARDS).max(SHARD_BYTES_MIN);
        let mut shards = Vec::new();
        for (index, (path, &length)) in self.paths.iter().zip(&lengths).enumerate() {
            let pieces = length.div_ceil(shard_bytes).max(1);
            for piece in 0..pieces {
                let begin = length * piece / pieces;
                let end = length * (piece + 1) / pieces;
                // The index keeps apart a file that is named twice.
                shards.push(format!("{begin}-{end}:{index}:{}", path.display()));
            }
        }
        Ok(shards)
    }

    fn open(&self, shard: &str, at: Option<&(u32, u64)>) -> io::Result<LineReader> {
        let range = Range::parse(shard)?;
        let file = File::open(range.path).map_err(|error| about(range.path, error))?;
        let mut reader = LineReader {
            path: range.path.to_owned(),
            file: BufReader::with_capacity(BATCH_BYTES as usize, file),
            first: 0,
            end: range.end,
            offset: 0,
            pass: 0,
            passes: self.passes,
            line: Vec::new(),
        };
        reader.first = reader.first_line_from(range.begin)?;
        let (pass, offset) = at.copied().unwrap_or((0, reader.first));
        reader.pass = pass;
        reader.seek(offset)?;
        Ok(reader)
    }

    fn extent(&self, shard: &str) -> Option<u64> {
        let range = Range::parse(shard).ok()?;
        Some((range.end - range.begin) * u64::from(self.passes))
    }

    fn consumed(&self, shard: &str, &(pass, offset): &(u32, u64)) -> u64 {
        let Ok(range) = Range::parse(shard) else { return 0 };
        let length = range.end - range.begin;
        let in_pass = offset.saturating_sub(range.begin).min(length);
        (u64::from(pass) * length + in_pass).min(length * u64::from(self.passes))
    }
}

/// Reads the lines that begin in one range of a file, some times over.
pub struct LineReader {
    path: PathBuf,
    file: BufReader<File>,
    /// Where the first line of the range begins.
    first: u64,
    end: u64,
    offset: u64,
    pass: u32,
    passes: u32,
    line: Vec<u8>,
}

impl LineReader {
    fn seek(&mut self, offset: u64) -> io::Result<()> {
        let moved = self.file.seek(SeekFrom::Start(offset));
        moved.map_err(|error| about(&self.path, error))?;
        self.offset = offset;
        Ok(())
    }

    /// The beginning of the first line that begins at or after `begin`.
    fn first_line_from(&mut self, begin: u64) -> io::Result<u64> {
        if begin == 0 {
            return Ok(0);
        }
        // The line that holds the byte before `begin` belongs to an earlier range.
        self.seek(begin - 1)?;
        self.line.clear();
        let read = self.file.read_until(b'\n', &mut self.line);
        Ok(begin - 1 + read.map_err(|error| about(&self.path, error))? as u64)
    }
}

impl Reader for LineReader {
    type Item = String;
    type Position = (u32, u64);

    fn read(&mut self, batch: &mut Vec<String>) -> io::Result<bool> {
        let mut read_bytes = 0;
        while self.pass < self.passes && read_bytes < BATCH_BYTES {
            if self.offset >= self.end {
                self.pass += 1;
                if self.pass < self.passes {
                    self.seek(self.first)?;
                }
                if self.first >= self.end {
                    // No line begins in this range: all passes are over at once.
                    self.pass = self.passes;
                }
                continue;
            }
            self.line.clear();
            let read = self.file.read_until(b'\n', &mut self.line);
            let read = read.map_err(|error| about(&self.path, error))? as u64;
            if read == 0 {
                let what = format!(
                    "{} became shorter during the run: it ends at {} and had {} bytes",
                    self.path.display(),
                    self.offset,
                    self.end
                );
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
            self.offset += read;
            read_bytes += read;
            let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            batch.push(String::from_utf8_lossy(line).into_owned());
        }
        Ok(self.pass < self.passes)
    }

    fn position(&self) -> (u32, u64) {
        (self.pass, self.offset)
    }
}

#[cfg(test)]
mod tests {
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
}
