//! Files that are followed: lines as they are appended, through rotations, for ever.

mod trail;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use self::trail::{Found, Trail};
use super::file_copy::about;
use super::text_files::{no_files, text_of};
use super::{Reader, Source};
use crate::paths::{path_of, shown};

pub use self::trail::FollowPosition;

/// How much is read at once.
const BATCH_BYTES: usize = 32 << 10;

/// A source of the lines of files that grow, as they are appended: made by
/// [`TextFiles::follow`](super::TextFiles::follow).
///
/// Each file is one shard, and is read from its beginning, what it has at the start included. A line comes
/// out once it is complete. A file that has nothing new is looked at less and less often, at least five times
/// a second, and holds neither other files nor epochs back.
///
/// The files must be there when the job starts, on every node under the same path: one that
/// all nodes share, since a file moves with its partition when a node fails. A source that follows does
/// not end by itself; [`until`](FollowedFiles::until) names a file whose existence ends it.
///
/// Files may be rotated in the two ways of logrotate, and are recognised by their inode on one host, and by
/// their first and last bytes that were read:
///
/// | rotation | what is read |
/// | --- | --- |
/// | renamed, and a new file of the same name | the old file to its end, then, once the new one has something in it, that; a last line without an end comes out as it is |
/// | renamed to `NAME.1`, which was `NAME.2` before, and so on | where several rotations have passed since: the files between, oldest first |
/// | copied to `NAME` and more, and cut (`copytruncate`) | the rest of the copy, where there is one, then the file from its beginning |
///
/// That holds after a failure, too: the successor looks for the file that was being read under its
/// name, and under names beside it that begin with its name. If it is not there any more the job ends with an
/// error that names it, since nobody knows what else was written to it. What cannot be known, and is lost
/// without a word:
///
/// - what was written between the last look and a cut, where no copy is beside the file;
/// - files that came and went between two looks under names that are not numbered, or compressed;
/// - what is appended to an old file after the first line of the new one was written.
///
/// ```
/// use ringfence_operators::prelude::*;
/// use ringfence_operators::testing;
///
/// let directory = std::env::temp_dir().join(format!("ringfence-follow-{}", std::process::id()));
/// std::fs::create_dir_all(&directory)?;
/// let (log, stop) = (directory.join("app.log"), directory.join("stop"));
/// std::fs::write(&log, "one\ntwo\nthr")?;
/// // Usually written by someone else, much later.
/// std::fs::write(&stop, "")?;
/// let mut lines = testing::run(2, move |scope, output| {
///     TextFiles::new([&log])
///         .follow()
///         .until(&stop)
///         .to_stream_fenced(scope, "log")
///         .sink_fenced("lines", output);
/// });
/// lines.sort();
/// assert_eq!(lines, ["one", "thr", "two"]);
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FollowedFiles {
    paths: Vec<PathBuf>,
    until: Option<PathBuf>,
}

impl FollowedFiles {
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        FollowedFiles { paths, until: None }
    }

    /// Ends once there is a file at `path`, which all nodes must see.
    ///
    /// Each file is then read to its end once more, a last line without an end included. See
    /// [`FollowedFiles`] for an example.
    pub fn until(mut self, path: impl Into<PathBuf>) -> Self {
        self.until = Some(path.into());
        self
    }
}

/// The path in the name of a shard, `follow:index:path`.
fn parse(shard: &str) -> io::Result<PathBuf> {
    let path = || path_of(shard.strip_prefix("follow:")?.split_once(':')?.1);
    path().ok_or_else(|| {
        let what = format!("{shard:?} is not a file that is followed such as follow:0:a.log");
        io::Error::new(io::ErrorKind::InvalidInput, what)
    })
}

impl Source for FollowedFiles {
    type Item = String;
    type Position = FollowPosition;
    type Reader = FollowReader;

    fn shards(&self, _share_count: u32) -> io::Result<Vec<String>> {
        if self.paths.is_empty() {
            return Err(no_files());
        }
        let named = self.paths.iter().enumerate().map(|(index, path)| {
            // Opening tells now, not in the middle of the run, that a file cannot be read.
            Found::open(path)?;
            Ok(format!("follow:{index}:{}", shown(path)))
        });
        named.collect()
    }

    fn open(&self, shard: &str, at: Option<&FollowPosition>) -> io::Result<FollowReader> {
        let path = parse(shard)?;
        let trail = Trail::resume(&path, at)?;
        Ok(FollowReader {
            path,
            until: self.until.clone(),
            trail,
            pending: Vec::new(),
            is_leaving: false,
        })
    }

    fn consumed(&self, _shard: &str, position: &FollowPosition) -> u64 {
        position.consumed()
    }
}

/// Follows one file.
pub struct FollowReader {
    path: PathBuf,
    until: Option<PathBuf>,
    /// Where it stands: after the last line that came out.
    trail: Trail,
    /// What was read of the next line, which has no end yet.
    pending: Vec<u8>,
    /// Whether the next file has something in it: what is read of this one from now on is its end.
    is_leaving: bool,
}

/// What was found in a file.
enum Look {
    Read,
    Nothing,
    /// It was cut since the last look.
    Cut,
}

impl FollowReader {
    /// Reads what is there, up to a batch.
    fn read_lines(&mut self, batch: &mut Vec<String>) -> io::Result<Look> {
        let begin = self.pending.len();
        self.pending.resize(begin + BATCH_BYTES, 0);
        let read = self.trail.read_after(begin as u64, &mut self.pending[begin..]);
        self.pending.truncate(begin + *read.as_ref().unwrap_or(&0));
        let read = read?;
        // After the look, so that nothing that came after a cut passes for what came before.
        if self.trail.was_cut(&self.pending[..begin])? {
            self.pending.truncate(begin);
            return Ok(Look::Cut);
        }
        if read == 0 {
            return Ok(Look::Nothing);
        }
        let (mut line_begin, mut from) = (0, begin);
        while let Some(at) = self.pending[from..].iter().position(|byte| *byte == b'\n') {
            from += at + 1;
            batch.push(text_of(&self.pending[line_begin..from]));
            line_begin = from;
        }
        self.trail.advance(&self.pending[..line_begin]);
        self.pending.drain(..line_begin);
        Ok(Look::Read)
    }

    /// Lets what is left of a file out: nothing more will come to it.
    fn flush(&mut self, batch: &mut Vec<String>) {
        if !self.pending.is_empty() {
            batch.push(text_of(&self.pending));
            self.trail.advance(&self.pending);
        }
        self.pending.clear();
    }

    /// Goes on with another file.
    fn go_to(&mut self, next: Trail) {
        self.trail = next;
        self.pending.clear();
        self.is_leaving = false;
    }

    fn is_to_end(&self) -> io::Result<bool> {
        let Some(until) = &self.until else { return Ok(false) };
        until.try_exists().map_err(|error| about(until, error))
    }
}

impl Reader for FollowReader {
    type Item = String;
    type Position = FollowPosition;

    fn read(&mut self, batch: &mut Vec<String>) -> io::Result<bool> {
        // Before the look at the file, so that what was written before that counts.
        let is_to_end = self.is_to_end()?;
        match self.read_lines(batch)? {
            Look::Read => return Ok(true),
            Look::Cut => {
                match self.trail.copy(&self.path)? {
                    Some(copy) => self.go_to(copy),
                    None => {
                        self.flush(batch);
                        self.trail.restart();
                    }
                }
                return Ok(true);
            }
            Look::Nothing => {}
        }
        match self.trail.next(&self.path)? {
            // Whoever wrote to this file has gone on to the next one, maybe since the last look.
            Some(_) if !self.is_leaving => self.is_leaving = true,
            Some(next) => {
                self.flush(batch);
                self.go_to(next);
            }
            None if is_to_end => {
                self.flush(batch);
                return Ok(false);
            }
            None => {}
        }
        Ok(true)
    }

    fn position(&self) -> FollowPosition {
        self.trail.position()
    }
}

/// The files beside `path` whose names begin with its name, and itself.
fn beside(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| about(directory, error))? {
        let entry = entry.map_err(|error| about(directory, error))?;
        let other = entry.file_name();
        if other.as_encoded_bytes().starts_with(name.as_encoded_bytes()) {
            found.push(path.with_file_name(other));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
