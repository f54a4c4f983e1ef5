//! Files that are followed: their lines are read as they are appended, through rotations, without end.

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

/// How many bytes are read at once.
const BATCH_BYTES: usize = 32 << 10;

/// A source of the lines of growing files, which yields lines as they are appended.
/// [`TextFiles::follow`](super::TextFiles::follow) makes it.
///
/// Each file is one shard and is read from its beginning, including what it contains at the start. A line is
/// yielded once it is complete. A file that has nothing new is polled less and less often, but at least five
/// times a second. It delays neither other files nor epochs.
///
/// The files must exist when the job starts. They must be shared by all nodes under the same path, since a
/// file moves with its partition when a node fails. A source that follows files does not end by itself;
/// [`until`](FollowedFiles::until) names a file whose existence ends it.
///
/// Files may be rotated in the two ways of logrotate. A file is recognised by its inode on one host, and by
/// the first and last bytes that were read:
///
/// | rotation | what is read |
/// | --- | --- |
/// | renamed, and a new file of the same name | the old file to its end, and then the new one, once it has any contents; an incomplete last line is yielded as it is |
/// | renamed to `NAME.1`, which was `NAME.2` before, and so on | if there have been several rotations: the files in between, oldest first |
/// | copied to a name that begins with `NAME`, and truncated (`copytruncate`) | the rest of the copy, if there is one, and then the file from its beginning |
///
/// This also holds after a failure: the successor looks for the file that was being read under its name, and
/// under names in the same directory that begin with its name. If the file is gone, the job ends with an
/// error that names it, since it is unknown what else was written to it. The following cannot be known and is
/// lost silently:
///
/// - what was written between the last poll and a truncation, if there is no copy next to the file;
/// - files that appeared and disappeared between two polls under names that are not numbered, or compressed;
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
    /// Where it is: after the last line that was yielded.
    trail: Trail,
    /// What has been read of the next line, which is not complete yet.
    pending: Vec<u8>,
    /// Whether the next file has any contents: then what is read of this file from now on is its end.
    is_leaving: bool,
}

/// What was found in a file.
enum Look {
    Read,
    Nothing,
    /// It was truncated since the last poll.
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
        // After the check, so that nothing written after a truncation is mistaken for what came before.
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

    /// Yields what is left of a file, to which nothing more will be written.
    fn flush(&mut self, batch: &mut Vec<String>) {
        if !self.pending.is_empty() {
            batch.push(text_of(&self.pending));
            self.trail.advance(&self.pending);
        }
        self.pending.clear();
    }

    /// Continues with another file.
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
        // Before the file is checked, so that what was written before that counts.
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
            // The writer of this file has moved on to the next one, maybe since the last poll.
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

/// The file at `path`, and the files in its directory whose names begin with its name.
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
