//! Text files, line by line.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use super::file_copy::{Extent, FileCopy, Files, changed};
use super::{FollowedFiles, Reader, Source};
use crate::paths::{path_of, shown};

/// How many bytes are read at once: few enough for the worker to stay responsive.
const BATCH_BYTES: u64 = 32 << 10;

/// About how many shards the files are split into: as many as there are partitions by default.
const SHARDS: u64 = 256;

/// The minimum size of a shard, so that small files are not split into many pieces.
const SHARD_BYTES_MIN: u64 = 4 << 10;

/// A source of the lines of text files, without their line ends.
///
/// Each file is split into ranges of bytes, which are the shards; a line belongs to the range in which it
/// begins. Bytes that are not UTF-8 are replaced, as by [`String::from_utf8_lossy`].
///
/// The files must be readable under the same paths on every node, with the same contents. They are read as
/// worker 0 saw them when the run began:
///
/// | what happens to a file | what is read |
/// | --- | --- |
/// | it is appended to | its lines up to the length that it had; an incomplete last line is read up to that length |
/// | it is removed or renamed | the same, from the open file; the job ends if a worker has to open the file again (after a failure, or because it has more than 16 files) |
/// | it is replaced, written to in place, or truncated | the job ends with an error |
/// | a node's copy is shorter, or differs at the ends of a range | the job ends with an error before anything is read |
///
/// The errors name the file and say how much had been read. A change is noticed at the latest when a range is
/// opened and when it has been read to its end: on one host by inode, length and modification time, and
/// between hosts by length and by 4 KiB at both ends of each range. Some changes are not noticed: copies on
/// different hosts that differ only in the middle of ranges of more than 8 KiB, and a file that is rewritten
/// in such a place and also appended to.
///
/// To continue reading as a file grows, see [`follow`](TextFiles::follow).
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
    files: Files,
}

impl TextFiles {
    /// A source of the lines of the files at `paths`.
    pub fn new<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Self {
        let paths = paths.into_iter().map(Into::into).collect();
        TextFiles { paths, passes: 1, files: Files::default() }
    }

    /// Reads every file `passes` times over.
    pub fn passes(mut self, passes: u32) -> Self {
        self.passes = passes;
        self
    }

    /// Continues reading forever, as lines are appended and as the files are rotated; see [`FollowedFiles`].
    ///
    /// Each file is read once, whatever [`passes`](TextFiles::passes) says.
    ///
    /// ```
    /// use ringfence_operators::prelude::*;
    ///
    /// let lines = TextFiles::new(["app.log"]).follow().until("app.stop");
    /// # let _ = lines;
    /// ```
    pub fn follow(self) -> FollowedFiles {
        FollowedFiles::new(self.paths)
    }
}

/// A range of a file, as the name of a shard spells it: `begin-end/length:index:path`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Range {
    extent: Extent,
    /// The index of the file in the source, which distinguishes the two if a file is named twice.
    index: usize,
    path: PathBuf,
}

impl Range {
    fn parse(shard: &str) -> io::Result<Self> {
        let parse = || {
            let (extent, rest) = shard.split_once(':')?;
            let (index, path) = rest.split_once(':')?;
            let (range, length) = extent.split_once('/')?;
            let (begin, end) = range.split_once('-')?;
            let (begin, end) = (begin.parse().ok()?, end.parse().ok()?);
            let extent = Extent { begin, end, length: length.parse().ok()? };
            let is_sound = begin <= end && end <= extent.length;
            let (index, path) = (index.parse().ok()?, path_of(path)?);
            is_sound.then_some(Range { extent, index, path })
        };
        parse().ok_or_else(|| {
            let what = format!("{shard:?} is not a range of a file such as 0-4096/9000:0:a.txt");
            io::Error::new(io::ErrorKind::InvalidInput, what)
        })
    }

    fn name(&self) -> String {
        let Extent { begin, end, length } = self.extent;
        format!("{begin}-{end}/{length}:{}:{}", self.index, shown(&self.path))
    }

    fn length(&self) -> u64 {
        self.extent.end - self.extent.begin
    }
}

/// Splits files of these lengths into ranges.
fn cut(lengths: &[u64]) -> Vec<(usize, Extent)> {
    let total = lengths.iter().fold(0u64, |total, length| total.saturating_add(*length));
    let shard_bytes = (total / SHARDS).max(SHARD_BYTES_MIN);
    let mut ranges = Vec::new();
    for (index, &length) in lengths.iter().enumerate() {
        let pieces = length.div_ceil(shard_bytes).max(1);
        let bound = |piece: u64| {
            let bound = u128::from(length) * u128::from(piece) / u128::from(pieces);
            u64::try_from(bound).unwrap_or(length)
        };
        for piece in 0..pieces {
            ranges.push((index, Extent { begin: bound(piece), end: bound(piece + 1), length }));
        }
    }
    ranges
}

pub(super) fn no_files() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "no input files were given")
}

impl Source for TextFiles {
    type Item = String;
    /// The pass and the offset in the file.
    type Position = (u32, u64);
    type Reader = LineReader;

    fn shards(&self, _share_count: u32) -> io::Result<Vec<String>> {
        if self.paths.is_empty() {
            return Err(no_files());
        }
        // If a file cannot be read, opening it shows this now rather than in the middle of the run.
        let lengths: io::Result<Vec<u64>> =
            self.paths.iter().map(|path| Ok(self.files.get(path)?.length())).collect();
        let ranges = cut(&lengths?);
        let named = ranges
            .into_iter()
            .map(|(index, extent)| Range { extent, index, path: self.paths[index].clone() }.name());
        Ok(named.collect())
    }

    fn agree(&self, decided: &[String], _share_count: u32) -> io::Result<()> {
        let mut there = Vec::new();
        for shard in decided {
            let range = Range::parse(shard)?;
            if range.index == there.len() {
                there.push(shown(&range.path));
            }
        }
        let here: Vec<String> = self.paths.iter().map(|path| shown(path)).collect();
        super::listing::compare(&there, &here)
    }

    fn fingerprint(&self, shard: &str) -> io::Result<Vec<u8>> {
        let range = Range::parse(shard)?;
        self.files.get(&range.path)?.fingerprint(range.extent)
    }

    fn check(&self, shard: &str, fingerprint: &[u8]) -> io::Result<()> {
        let range = Range::parse(shard)?;
        self.files.get(&range.path)?.check(range.extent, fingerprint)
    }

    fn open(&self, shard: &str, at: Option<&(u32, u64)>) -> io::Result<LineReader> {
        let range = Range::parse(shard)?;
        let copy = self.files.get(&range.path)?;
        let length = range.extent.length;
        let lines = Window { copy: Arc::clone(&copy), offset: 0, length };
        let mut reader = LineReader {
            copy,
            lines: BufReader::with_capacity(BATCH_BYTES as usize, lines),
            first: 0,
            end: range.extent.end,
            offset: 0,
            pass: 0,
            passes: self.passes,
            line: Vec::new(),
        };
        reader.first = reader.first_line_from(range.extent.begin)?;
        let (pass, offset) = at.copied().unwrap_or((0, reader.first));
        reader.pass = pass;
        reader.seek(offset)?;
        Ok(reader)
    }

    fn extent(&self, shard: &str) -> Option<u64> {
        let range = Range::parse(shard).ok()?;
        Some(range.length() * u64::from(self.passes))
    }

    fn consumed(&self, shard: &str, &(pass, offset): &(u32, u64)) -> u64 {
        let Ok(range) = Range::parse(shard) else { return 0 };
        let length = range.length();
        let in_pass = offset.saturating_sub(range.extent.begin).min(length);
        (u64::from(pass) * length + in_pass).min(length * u64::from(self.passes))
    }
}

/// A file as it was when the run began, without what was appended since.
struct Window {
    copy: Arc<FileCopy>,
    offset: u64,
    length: u64,
}

impl Read for Window {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.copy.read_at(bytes, self.offset, self.length)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let offset = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.offset.checked_add_signed(by),
        };
        self.offset = offset.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.offset)
    }
}

/// Reads the lines that begin in one range of a file, a given number of times.
pub struct LineReader {
    copy: Arc<FileCopy>,
    lines: BufReader<Window>,
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
        self.lines.seek(SeekFrom::Start(offset))?;
        self.offset = offset;
        Ok(())
    }

    /// The beginning of the first line that begins at or after `begin`, or the end of the range if no line
    /// begins before that.
    fn first_line_from(&mut self, begin: u64) -> io::Result<u64> {
        if begin == 0 {
            return Ok(0);
        }
        // The line that holds the byte before `begin` belongs to an earlier range. If it continues beyond
        // this range, the rest of it is not read: it may be long, and there may be many such ranges.
        self.seek(begin - 1)?;
        let within = self.end.saturating_sub(begin - 1);
        let skipped = (&mut self.lines).take(within).skip_until(b'\n')?;
        Ok(begin - 1 + skipped as u64)
    }
}

/// A line as the source yields it: as text, without its line end.
pub(super) fn text_of(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match String::from_utf8_lossy(line) {
        Cow::Borrowed(text) => text.to_owned(),
        Cow::Owned(text) => text,
    }
}

impl Reader for LineReader {
    type Item = String;
    type Position = (u32, u64);

    fn read(&mut self, batch: &mut Vec<String>) -> io::Result<bool> {
        self.copy.check_unchanged()?;
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
            let read = self.lines.read_until(b'\n', &mut self.line)? as u64;
            if read == 0 {
                let what = format!("ends at byte {} and should go on to {}", self.offset, self.end);
                return Err(changed(self.copy.path(), &what));
            }
            self.offset += read;
            read_bytes += read;
            batch.push(text_of(&self.line));
        }
        Ok(self.pass < self.passes)
    }

    fn position(&self) -> (u32, u64) {
        (self.pass, self.offset)
    }
}

#[cfg(test)]
mod tests;
