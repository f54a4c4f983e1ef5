//! A register in a directory: `run.json`, `views/00000001.json`, ..., `done.json`.
//!
//! Each file is written in full under a temporary name, synced, and then given its final name with a hard
//! link, which fails if the name exists. So a name appears atomically and in full or not at all, even across
//! a crash, and of many writers one wins. (A rename would let the last one win.)

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ringfence_operators::ids::ViewNumber;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Creation, DoneRecord, Register, RegisterError, RunRecord, check_run, check_same_run};
use crate::protocol::view::View;

/// The greatest size of a register's file: a view with the greatest number of partitions is smaller.
const FILE_BYTES_MAX: u64 = 1 << 28;

/// Numbers the temporary files of this process.
static TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// A register in a directory that all nodes can reach.
///
/// The file system must create hard links atomically, as local file systems and NFS do.
#[derive(Clone, Debug)]
pub struct DirectoryRegister {
    root: PathBuf,
    /// Whether the run's record was seen: it is never removed, so if it is missing, everything is.
    run_seen: Arc<AtomicBool>,
}

impl DirectoryRegister {
    /// Opens the register in the directory `root`, creating the directory if it does not exist.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, RegisterError> {
        let root = root.into();
        let views = root.join("views");
        fs::create_dir_all(&views)
            .map_err(|error| RegisterError::Unavailable { path: views, error })?;
        Ok(DirectoryRegister { root, run_seen: Arc::default() })
    }

    /// Returns the directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn place(&self) -> String {
        self.root.display().to_string()
    }

    fn run_path(&self) -> PathBuf {
        self.root.join("run.json")
    }

    fn done_path(&self) -> PathBuf {
        self.root.join("done.json")
    }

    fn view_path(&self, number: ViewNumber) -> PathBuf {
        self.root.join("views").join(format!("{:08}.json", number.0))
    }

    fn run(&self) -> Result<Option<RunRecord>, RegisterError> {
        // SUBTLE: asked before the file is looked for: another thread may see it appear in between.
        let was_seen = self.run_seen.load(Ordering::SeqCst);
        let run = read(&self.run_path())?;
        if run.is_some() {
            self.run_seen.store(true, Ordering::SeqCst);
        } else if was_seen {
            return Err(self.away());
        }
        Ok(run)
    }

    /// Returns an error unless it is certain that what was not found does not exist.
    ///
    /// SUBTLE: a directory that was moved away, or whose file system is not mounted, has no views either.
    /// Accepting that as an answer would mean that there is no such view.
    fn check_presence(&self) -> Result<(), RegisterError> {
        if self.run_seen.load(Ordering::SeqCst) && !exists(&self.run_path())? {
            return Err(self.away());
        }
        Ok(())
    }

    fn away(&self) -> RegisterError {
        let text = "the directory is missing: its run.json, which existed before, is gone";
        let error = io::Error::new(ErrorKind::NotFound, text);
        RegisterError::Unavailable { path: self.root.clone(), error }
    }
}

impl Register for DirectoryRegister {
    fn open_run(&self, record: &RunRecord) -> Result<RunRecord, RegisterError> {
        let winner = match self.run()? {
            Some(winner) => winner,
            None => {
                create(&self.run_path(), record)?;
                self.run()?.ok_or_else(|| self.away())?
            }
        };
        check_run(&self.place(), record, &winner, self.done()?)?;
        Ok(winner)
    }

    fn create_view(&self, view: &View) -> Result<Creation, RegisterError> {
        let number = view.number;
        let gap = || RegisterError::Gap { place: self.place(), number };
        check_same_run(&self.place(), &self.run()?.ok_or_else(gap)?, &view.run)?;
        let is_next = || match number.0 {
            0 => Ok(false),
            1 => Ok(true),
            _ => exists(&self.view_path(ViewNumber(number.0 - 1))),
        };
        if !is_next()? {
            // It may have been unavailable at the moment of the first check.
            self.check_presence()?;
            if !is_next()? {
                return Err(gap());
            }
        }
        create(&self.view_path(number), view)
    }

    fn read_view(&self, number: ViewNumber) -> Result<Option<View>, RegisterError> {
        let path = self.view_path(number);
        let Some(view) = read::<View>(&path)? else {
            return self.check_presence().map(|()| None);
        };
        if view.number != number {
            return Err(damaged(&path, &format!("it holds view {}", view.number)));
        }
        view.validate().map_err(|error| damaged(&path, &error.to_string()))?;
        if let Some(run) = self.run()? {
            check_same_run(&path.display().to_string(), &run, &view.run)?;
        }
        Ok(Some(view))
    }

    fn latest(&self) -> Result<Option<ViewNumber>, RegisterError> {
        // Numbers have no gaps, so double and then halve: views are read often, listed never.
        let there = |number| exists(&self.view_path(ViewNumber(number)));
        if !there(1)? {
            return self.check_presence().map(|()| None);
        }
        let mut low = 1;
        let mut high = 2;
        while there(high)? {
            low = high;
            high *= 2;
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if there(middle)? { low = middle } else { high = middle }
        }
        Ok(Some(ViewNumber(low)))
    }

    fn mark_done(&self, record: &DoneRecord) -> Result<(), RegisterError> {
        let gap = || RegisterError::Gap { place: self.place(), number: record.view };
        check_same_run(&self.place(), &self.run()?.ok_or_else(gap)?, &record.run)?;
        create(&self.done_path(), record).map(|_| ())
    }

    fn done(&self) -> Result<bool, RegisterError> {
        let is_done = read::<DoneRecord>(&self.done_path())?.is_some();
        if !is_done {
            self.check_presence()?;
        }
        Ok(is_done)
    }
}

/// Writes `value` under `path`, in full, unless the name exists.
fn create<T: Serialize>(path: &Path, value: &T) -> Result<Creation, RegisterError> {
    let bytes = serde_json::to_vec(value).map_err(|error| damaged(path, &error.to_string()))?;
    let unavailable = |error| RegisterError::Unavailable { path: path.to_owned(), error };
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let (place, bytes) = (path.display().to_string(), bytes.len() as u64);
        return Err(RegisterError::TooLarge { place, bytes, limit: FILE_BYTES_MAX });
    }
    if exists(path)? {
        return Ok(Creation::Exists);
    }
    let number = TEMPORARY.fetch_add(1, Ordering::Relaxed);
    let directory = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}.{number}.tmp", std::process::id()));
    let linked = write_synced(&temporary, &bytes).and_then(|()| fs::hard_link(&temporary, path));
    // A temporary file that is left behind does no harm: names that begin with a dot are never read.
    let _ = fs::remove_file(&temporary);
    match linked {
        Ok(()) => {
            File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(unavailable)?;
            Ok(Creation::Created)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Creation::Exists),
        Err(error) => Err(unavailable(error)),
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Truncating a file of the same name is safe: only a dead process with the same id can have left it.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RegisterError> {
    let unavailable = |error| RegisterError::Unavailable { path: path.to_owned(), error };
    let bytes = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() <= FILE_BYTES_MAX => {
            fs::read(path).map_err(unavailable)?
        }
        Ok(_) => return Err(damaged(path, "it is not a file, or far too large")),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unavailable(error)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(path, &error.to_string()))
}

fn exists(path: &Path) -> Result<bool, RegisterError> {
    path.try_exists().map_err(|error| RegisterError::Unavailable { path: path.to_owned(), error })
}

fn damaged(path: &Path, problem: &str) -> RegisterError {
    RegisterError::Damaged { place: path.display().to_string(), problem: problem.to_owned() }
}
