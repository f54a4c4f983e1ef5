//! A trail: the position in a file that is followed, and how that file is found again.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::super::file_copy::{about, place_of};
use super::beside;
use crate::hash::KeyHasher;
use crate::paths::shown;

/// How many of the first and the last bytes that were read identify a file.
const KNOWN_BYTES: usize = 1 << 10;

/// The position of a reader of a followed file; see [`FollowedFiles`](super::FollowedFiles).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowPosition {
    /// How much of this file was read.
    offset: u64,
    /// How much of the earlier files was read.
    before: u64,
    /// The host for which its inode is valid, and the inode.
    place: Option<[u8; 20]>,
    inode: Inode,
    /// The hashes of the first bytes, and of the last bytes that were read.
    first: u64,
    last: u64,
}

impl FollowPosition {
    /// How much was read of all files under the name.
    pub(super) fn consumed(&self) -> u64 {
        self.before + self.offset
    }
}

fn hash(bytes: &[u8]) -> u64 {
    KeyHasher::Rapid.hash(bytes)
}

/// What identifies a file on one host. The inode numbers of removed files are reused, but creation times are
/// not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Inode {
    device: u64,
    number: u64,
    created: Option<Duration>,
}

impl Inode {
    fn of(metadata: &Metadata) -> Self {
        let created = metadata.created().ok();
        let created = created.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        Inode { device: metadata.dev(), number: metadata.ino(), created }
    }
}

/// An open file, which may have any name by now.
#[derive(Debug)]
pub(super) struct Found {
    path: PathBuf,
    file: File,
    inode: Inode,
}

impl Found {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path).map_err(|error| about(path, error))?;
        let metadata = file.metadata().map_err(|error| about(path, error))?;
        if !metadata.is_file() {
            let what = format!("cannot read {}: not a regular file", shown(path));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(Found { path: path.to_owned(), file, inode: Inode::of(&metadata) })
    }

    /// The same, for a file that may not exist.
    fn try_open(path: &Path) -> io::Result<Option<Self>> {
        match Found::open(path) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata().map_err(|error| about(&self.path, error))?.len())
    }

    /// Fills `bytes` from `offset`; returns how many there are.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < bytes.len() {
            match self.file.read_at(&mut bytes[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(about(&self.path, error)),
            }
        }
        Ok(read)
    }

    /// The bytes between `begin` and `end`; `None` where the file is shorter.
    fn bytes(&self, begin: u64, end: u64) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; (end - begin) as usize];
        let read = self.read_at(&mut bytes, begin)?;
        Ok((read == bytes.len()).then_some(bytes))
    }

    /// What identifies the file when `offset` bytes were read: the first of them and the last of them.
    fn known(&self, offset: u64) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        let known = KNOWN_BYTES as u64;
        let first = self.bytes(0, offset.min(known))?;
        let last = self.bytes(offset.saturating_sub(known), offset)?;
        Ok(first.zip(last))
    }
}

/// A file that is followed, and how far it was read.
#[derive(Debug)]
pub(super) struct Trail {
    found: Found,
    offset: u64,
    before: u64,
    place: Option<[u8; 20]>,
    /// The first bytes, and the last of those that were read.
    first: Vec<u8>,
    last: Vec<u8>,
}

impl Trail {
    fn begin(found: Found, path: &Path, before: u64) -> Self {
        let place = place_of(path);
        Trail { found, offset: 0, before, place, first: Vec::new(), last: Vec::new() }
    }

    /// Finds the file that was being read when `at` was kept, or begins the one at `path`.
    pub(super) fn resume(path: &Path, at: Option<&FollowPosition>) -> io::Result<Self> {
        let Some(at) = at else { return Ok(Trail::begin(Found::open(path)?, path, 0)) };
        let place = place_of(path);
        let knows_inode = at.place.is_some() && at.place == place;
        let is_it = |found: &Found| knows_inode && found.inode == at.inode;
        let (mut cut, mut alike) = (None, None);
        // The file's own name is the first of those that begin with it, and mostly the right one.
        for candidate in std::iter::once(path.to_owned()).chain(beside(path)?) {
            let Ok(Some(found)) = Found::try_open(&candidate) else { continue };
            let known = found.known(at.offset)?;
            let known =
                known.filter(|(first, last)| (hash(first), hash(last)) == (at.first, at.last));
            let Some((first, last)) = known else {
                // Truncated, and maybe written to again; its earlier contents may be in a copy.
                if is_it(&found) {
                    cut = Some(found);
                }
                continue;
            };
            let was_found = is_it(&found);
            let trail = Trail { found, offset: at.offset, before: at.before, place, first, last };
            if was_found {
                return Ok(trail);
            }
            // If nothing of a file was read, every file begins like it.
            if at.offset > 0 || !knows_inode {
                alike.get_or_insert(trail);
            }
        }
        match (alike, cut) {
            (Some(copy), _) => Ok(copy),
            (None, Some(cut)) => Ok(Trail::begin(cut, path, at.consumed())),
            (None, None) => Err(lost(path, at.offset)),
        }
    }

    pub(super) fn position(&self) -> FollowPosition {
        FollowPosition {
            offset: self.offset,
            before: self.before,
            place: self.place,
            inode: self.found.inode,
            first: hash(&self.first),
            last: hash(&self.last),
        }
    }

    /// Reads what comes `ahead` bytes after the current position.
    pub(super) fn read_after(&self, ahead: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.found.read_at(bytes, self.offset + ahead)
    }

    /// Notes that these bytes were read.
    pub(super) fn advance(&mut self, read: &[u8]) {
        self.offset += read.len() as u64;
        let lacking = KNOWN_BYTES.saturating_sub(self.first.len()).min(read.len());
        self.first.extend_from_slice(&read[..lacking]);
        let fresh = &read[read.len().saturating_sub(KNOWN_BYTES)..];
        let surplus = (self.last.len() + fresh.len()).saturating_sub(KNOWN_BYTES);
        self.last.drain(..surplus);
        self.last.extend_from_slice(fresh);
    }

    /// Whether the file was truncated since `pending`, which comes after this position, was read: then it is
    /// shorter, or the bytes that were read last are not there.
    pub(super) fn was_cut(&self, pending: &[u8]) -> io::Result<bool> {
        let end = self.offset + pending.len() as u64;
        let of_pending = &pending[pending.len().saturating_sub(KNOWN_BYTES)..];
        let lacking = (KNOWN_BYTES - of_pending.len()).min(self.last.len());
        let of_last = &self.last[self.last.len() - lacking..];
        let begin = end - (of_last.len() + of_pending.len()) as u64;
        let there = self.found.bytes(begin, end)?;
        Ok(there.is_none_or(|bytes| bytes != [of_last, of_pending].concat()))
    }

    /// Begins the same file again.
    pub(super) fn restart(&mut self) {
        self.before += self.offset;
        self.offset = 0;
        self.first.clear();
        self.last.clear();
    }

    /// The copy that was made of this file before it was truncated, if it is next to `path` and has more than
    /// was read.
    pub(super) fn copy(&self, path: &Path) -> io::Result<Option<Trail>> {
        if self.offset == 0 {
            return Ok(None);
        }
        for candidate in beside(path)? {
            let Ok(Some(found)) = Found::try_open(&candidate) else { continue };
            if found.inode == self.found.inode {
                continue;
            }
            if let Some((first, last)) = found.known(self.offset)?
                && (&first, &last) == (&self.first, &self.last)
            {
                let (offset, before, place) = (self.offset, self.before, self.place);
                return Ok(Some(Trail { found, offset, before, place, first, last }));
            }
        }
        Ok(None)
    }

    /// The file that follows this one under the name `path`, once it has any contents.
    pub(super) fn next(&self, path: &Path) -> io::Result<Option<Trail>> {
        let Some(newest) = Found::try_open(path)? else { return Ok(None) };
        if newest.inode == self.found.inode {
            return Ok(None);
        }
        let next = match self.successor(path)? {
            Some(between) => between,
            None if newest.length()? == 0 => return Ok(None),
            None => newest,
        };
        Ok(Some(Trail::begin(next, path, self.before + self.offset)))
    }

    /// If this file is `path.N` now, the file that was at `path` after it: `path.N-1`, down to `path.1`.
    fn successor(&self, path: &Path) -> io::Result<Option<Found>> {
        for candidate in beside(path)? {
            let Some(number) = number_of(path, &candidate).filter(|number| *number > 1) else {
                continue;
            };
            let is_it = fs::metadata(&candidate)
                .is_ok_and(|metadata| Inode::of(&metadata) == self.found.inode);
            if is_it {
                let mut name = path.as_os_str().to_owned();
                name.push(format!(".{}", number - 1));
                return Found::try_open(Path::new(&name));
            }
        }
        Ok(None)
    }
}

/// The file that was followed cannot be found.
fn lost(path: &Path, offset: u64) -> io::Error {
    let path = shown(path);
    let what = format!(
        "the file that was read as {path} is gone: {offset} bytes of it had been read, and neither it nor a \
         file beside it whose name begins like that begins with them, so what else was written to it is \
         not known: keep rotated files beside {path}, not compressed, until they were read"
    );
    io::Error::new(io::ErrorKind::NotFound, what)
}

/// The number at the end of `other`, if that is `path.N`.
fn number_of(path: &Path, other: &Path) -> Option<u64> {
    let (path, other) = (path.as_os_str().as_encoded_bytes(), other.as_os_str().as_encoded_bytes());
    let digits = other.strip_prefix(path)?.strip_prefix(b".")?;
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if is_number { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
}
