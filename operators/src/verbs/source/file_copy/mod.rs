//! A node's copy of a file, which must be and remain the file that the run began with.
//!
//! On one host, the device and inode identify a file, and its length and modification time show a change. A
//! copy on another host has other numbers and times: its length and its bytes at both ends of each shard
//! identify it.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use crate::codec::{Codec, Postcard};
use crate::paths::shown;

/// How many bytes at each end of a shard are compared.
const END_BYTES: u64 = 4 << 10;

/// How many files a source keeps open that no reader uses.
const KEPT_MAX: usize = 16;

/// How long it may take until an append shows in a file's length after it shows in its modification time.
const APPEND_PATIENCE: Duration = Duration::from_secs(1);

/// An error about a file, which it names.
pub(super) fn about(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot read {}: {error}", shown(path)))
}

/// A file that has changed, or differs between nodes.
pub(super) fn changed(path: &Path, what: &str) -> io::Error {
    let advice = "an input must be the same on all nodes and must not change during a run, but for what \
                  is appended";
    let what = format!("{} {what}: {advice}", shown(path));
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// What can be seen of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    pub(super) fn is_same_file(&self, other: &Stamp) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// What happened to a file between this look and a later one, unless it is unchanged or was only appended
    /// to.
    fn change(&self, now: &Stamp) -> Option<String> {
        if !self.is_same_file(now) {
            return Some(format!(
                "was replaced by another file: it had inode {} and has inode {}",
                self.inode, now.inode
            ));
        }
        if now.length < self.length {
            return Some(format!(
                "became shorter: it had {} bytes and has {}",
                self.length, now.length
            ));
        }
        (now.length == self.length && now.modified != self.modified).then(|| {
            format!(
                "was written to in place: it has {} bytes as before, and was modified {} and \
                 is now modified {} (seconds since 1970)",
                now.length,
                seconds(self.modified),
                seconds(now.modified),
            )
        })
    }
}

fn seconds((seconds, nanoseconds): (i64, i64)) -> String {
    format!("{seconds}.{nanoseconds:09}")
}

/// Identifies where paths mean the same files: a host since its boot, with its mounts. `None` if that is
/// unknown.
fn host() -> Option<&'static str> {
    static HOST: OnceLock<Option<String>> = OnceLock::new();
    let host = HOST.get_or_init(|| {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let mounts = fs::read_link("/proc/self/ns/mnt").ok()?;
        Some(format!("{} {}", boot.trim(), mounts.display()))
    });
    host.as_deref()
}

/// A name for a path that is unique among all hosts, if there is one: each such name means one file.
pub(super) fn place_of(path: &Path) -> Option<[u8; 20]> {
    let path = std::path::absolute(path).ok()?;
    let mut digest = Sha1::new();
    digest.update(host()?);
    digest.update([0]);
    digest.update(path.as_os_str().as_encoded_bytes());
    Some(digest.finalize().into())
}

/// What identifies a shard of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Fingerprint {
    place: Option<[u8; 20]>,
    stamp: Stamp,
    /// A digest of the shard's first and last bytes.
    ends: [u8; 20],
}

/// The bytes of a shard, of a file that had `length` bytes when the run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) begin: u64,
    pub(super) end: u64,
    pub(super) length: u64,
}

/// What this node saw of a file when it first opened it, and what it is unsure about.
#[derive(Clone, Debug)]
struct Seen {
    first: Stamp,
    doubt: Arc<Mutex<Option<Doubt>>>,
}

/// Since when a file has had a new modification time and its old length.
///
/// SUBTLE: an append sets the time before the length, so this counts as a change only after an append has had
/// enough time.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    before: Stamp,
    now: Stamp,
    since: Instant,
}

/// An open file, and what was seen of it when this node first opened it.
#[derive(Debug)]
pub(super) struct FileCopy {
    path: PathBuf,
    file: File,
    seen: Seen,
}

impl FileCopy {
    fn open(path: &Path, seen: Option<Seen>) -> io::Result<Self> {
        let file = File::open(path).map_err(|error| about(path, error))?;
        let metadata = file.metadata().map_err(|error| about(path, error))?;
        if !metadata.is_file() {
            let what = format!("cannot read {}: not a regular file", shown(path));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let first = || Seen { first: Stamp::of(&metadata), doubt: Arc::default() };
        Ok(FileCopy { path: path.to_owned(), file, seen: seen.unwrap_or_else(first) })
    }

    pub(super) fn length(&self) -> u64 {
        self.seen.first.length
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads at `offset`; an error if the file ends before `length`.
    pub(super) fn read_at(&self, bytes: &mut [u8], offset: u64, length: u64) -> io::Result<usize> {
        let wanted = usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = wanted.min(bytes.len());
        let read = self.file.read_at(&mut bytes[..wanted], offset);
        let read = read.map_err(|error| about(&self.path, error))?;
        if read == 0 && wanted > 0 {
            let what = format!(
                "became shorter: it had {length} bytes when the run began, and nothing is at byte {offset} now"
            );
            return Err(changed(&self.path, &what));
        }
        Ok(read)
    }

    /// An error if the open file was truncated or written to in place since this node first opened it; an
    /// error of kind `WouldBlock` if that is not clear yet.
    pub(super) fn check_unchanged(&self) -> io::Result<()> {
        self.check_since(&self.seen.first).map(|_now| ())
    }

    fn check_since(&self, before: &Stamp) -> io::Result<Stamp> {
        let now = self.file.metadata().map_err(|error| about(&self.path, error))?;
        let now = Stamp::of(&now);
        let Some(what) = before.change(&now) else { return Ok(now) };
        if before.is_same_file(&now) && now.length == before.length {
            let mut doubt = self.seen.doubt.lock().unwrap_or_else(PoisonError::into_inner);
            let known = doubt.filter(|doubt| (&doubt.before, doubt.now) == (before, now));
            let since = known.map_or_else(Instant::now, |doubt| doubt.since);
            *doubt = Some(Doubt { before: *before, now, since });
            if since.elapsed() < APPEND_PATIENCE {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, what));
            }
        }
        Err(changed(&self.path, &what))
    }

    /// An error if there is another file under its name. A file that was removed or renamed can still be read
    /// while it is open.
    fn check_name(&self) -> io::Result<()> {
        match fs::metadata(&self.path) {
            Ok(there) if self.seen.first.is_same_file(&Stamp::of(&there)) => Ok(()),
            Ok(there) => {
                let what = self.seen.first.change(&Stamp::of(&there)).unwrap_or_default();
                Err(changed(&self.path, &what))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(about(&self.path, error)),
        }
    }

    /// A digest of the first and the last bytes of a shard.
    fn ends(&self, extent: Extent) -> io::Result<[u8; 20]> {
        let mut digest = Sha1::new();
        let mut bytes = vec![0; END_BYTES as usize];
        let first_end = extent.end.min(extent.begin + END_BYTES);
        let last_begin = extent.end.saturating_sub(END_BYTES).max(first_end);
        for (begin, end) in [(extent.begin, first_end), (last_begin, extent.end)] {
            let mut offset = begin;
            while offset < end {
                let wanted = &mut bytes[..(end - offset) as usize];
                let read = self.read_at(wanted, offset, extent.length)?;
                digest.update(&bytes[..read]);
                offset += read as u64;
            }
        }
        Ok(digest.finalize().into())
    }

    /// What identifies a shard of this file, encoded.
    pub(super) fn fingerprint(&self, extent: Extent) -> io::Result<Vec<u8>> {
        let ends = self.ends(extent)?;
        let known = Fingerprint { place: place_of(&self.path), stamp: self.seen.first, ends };
        let mut encoded = Vec::new();
        Postcard::encode(&known, &mut encoded).map_err(io::Error::other)?;
        Ok(encoded)
    }

    /// Checks that this is the file that the run began with, and that it was at most appended to.
    pub(super) fn check(&self, extent: Extent, fingerprint: &[u8]) -> io::Result<()> {
        let known: Fingerprint = Postcard::decode(fingerprint).map_err(io::Error::other)?;
        let now = self.check_since(&self.seen.first)?;
        self.check_name()?;
        if known.place.is_some() && known.place == place_of(&self.path) {
            self.check_since(&known.stamp)?;
        }
        if now.length < extent.length {
            let (here, there) = (now.length, extent.length);
            let what = format!("has {here} bytes here and had {there} when the run began");
            return Err(changed(&self.path, &what));
        }
        if self.ends(extent)? != known.ends {
            let Extent { begin, end, .. } = extent;
            let what = format!(
                "has other bytes here between {begin} and {end} than it had when the run began"
            );
            return Err(changed(&self.path, &what));
        }
        Ok(())
    }
}

/// The files of a source at one worker; a clone begins with none.
#[derive(Debug, Default)]
pub(super) struct Files {
    known: Mutex<BTreeMap<PathBuf, Known>>,
}

#[derive(Debug)]
struct Known {
    seen: Seen,
    /// The file itself, if it is kept open.
    copy: Option<Arc<FileCopy>>,
}

impl Clone for Files {
    fn clone(&self) -> Self {
        Files::default()
    }
}

impl Files {
    /// The file of a path, which is opened if it is not open. The caller must still check that it is the same
    /// file as before.
    pub(super) fn get(&self, path: &Path) -> io::Result<Arc<FileCopy>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let there = known.get(path);
        if let Some(copy) = there.and_then(|known| known.copy.as_ref()) {
            return Ok(Arc::clone(copy));
        }
        let copy = Arc::new(FileCopy::open(path, there.map(|known| known.seen.clone()))?);
        let is_kept = known.values().filter(|known| known.copy.is_some()).count() < KEPT_MAX;
        let kept = is_kept.then(|| Arc::clone(&copy));
        known.insert(path.to_owned(), Known { seen: copy.seen.clone(), copy: kept });
        Ok(copy)
    }
}

#[cfg(test)]
mod tests;
