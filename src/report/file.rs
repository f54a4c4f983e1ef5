//! The file of events: JSON, one event per line.
//!
//! Each line is written by a single call, so that a reader that follows the file, or reads it after a crash,
//! sees only complete lines.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::Event;
use crate::error::{Error, Result};

/// A file to which events are appended.
#[derive(Debug)]
pub(crate) struct ReportFile {
    file: File,
    path: PathBuf,
}

impl ReportFile {
    /// Opens `path` for appending, and creates the file if it is missing.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let cannot = |error: std::io::Error| {
            Error::input(format!("cannot open report file {}", path.display())).because(error)
        };
        // SUBTLE: opening a named pipe waits for its reader, forever if there is none.
        let mut options = OpenOptions::new();
        options.append(true).create(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let file = options.open(path).map_err(|error| {
            if error.raw_os_error() == Some(Errno::ENXIO as i32) {
                return cannot(std::io::Error::other("nobody reads this pipe"));
            }
            cannot(error)
        })?;
        // From here on writing blocks: in a run, a separate thread does it.
        fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND)).map_err(|error| cannot(error.into()))?;
        Ok(ReportFile { file, path: path.to_owned() })
    }

    /// The line of `event`, with its end.
    pub(crate) fn line(event: &Event) -> Result<Vec<u8>> {
        let mut line = serde_json::to_vec(event).map_err(|error| {
            Error::internal(format!("event {:?} cannot be encoded", event.what)).because(error)
        })?;
        line.push(b'\n');
        Ok(line)
    }

    /// Appends a line that [`line`](Self::line) made. On an error, it may be missing or torn.
    pub(crate) fn append(&mut self, line: &[u8]) -> Result<()> {
        self.file.write_all(line).map_err(|error| {
            Error::input(format!("cannot write report file {}", self.path.display())).because(error)
        })
    }

    /// Returns an error if the file is no longer where it was opened: nobody would find what is appended.
    pub(crate) fn check_place(&self) -> Result<()> {
        let identity = |data: std::fs::Metadata| (data.dev(), data.ino());
        let is_there = match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(written), Ok(found)) => identity(written) == identity(found),
            // A file that cannot be checked now may still be there.
            (Ok(_), Err(error)) => error.kind() != std::io::ErrorKind::NotFound,
            (Err(_), _) => true,
        };
        if is_there {
            return Ok(());
        }
        let path = self.path.display();
        Err(Error::input(format!("report file {path} was removed or replaced")))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Origin, What};

    #[test]
    fn a_second_run_appends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        for text in ["one", "two"] {
            let what = What::Message { text: text.to_owned() };
            let line = ReportFile::line(&Event::now(Origin::LAUNCHER, what)).unwrap();
            ReportFile::open(&path).unwrap().append(&line).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let events: Vec<Event> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(events[1].what, What::Message { text: "two".to_owned() });
        assert_eq!(events.len(), 2);
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_an_error_and_no_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = ReportFile::open(&path).unwrap_err();
        assert!(format!("{error:?}").ends_with("pipe: nobody reads this pipe"), "{error:?}");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = ReportFile::open(Path::new("/does/not/exist")).unwrap_err();
        assert!(format!("{error:?}").contains("report file /does/not/exist: "), "{error:?}");
    }
}
