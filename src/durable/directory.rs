//! A store in a directory of a local file system, whose objects survive a power cut.
//!
//! An object is written under a temporary name, synced, and given its name with a hard link, which fails if
//! the name is taken. Then the directory is synced, since the name is an entry of the directory. A process
//! that dies in between leaves a temporary file, which the next start removes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::Builder;

use super::store::{Created, Store, StoreError};

/// What the names of temporary files begin with.
const TEMPORARY: &str = ".tmp-";

/// A store in a directory.
#[derive(Clone, Debug)]
pub(crate) struct DirectoryStore {
    root: PathBuf,
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StoreError + use<'a> {
    move |error| StoreError { action, path: path.to_owned(), error }
}

/// Makes the entries of a directory survive a power cut.
fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("sync", path))
}

impl DirectoryStore {
    /// Opens the store in the directory `root`, creating the directory if it does not exist.
    pub(crate) fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = DirectoryStore { root: root.into() };
        store.make_directory(&store.root)?;
        Ok(store)
    }

    /// Creates a directory and those above it, each so that it survives a power cut.
    fn make_directory(&self, path: &Path) -> Result<(), StoreError> {
        if path.is_dir() {
            return Ok(());
        }
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        let above = above.unwrap_or(Path::new("."));
        self.make_directory(above)?;
        match fs::create_dir(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                Err(failed("create", path)(error))
            }
            _ => sync_directory(above),
        }
    }
}

impl Store for DirectoryStore {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        let path = self.root.join(name);
        let directory = path.parent().unwrap_or(&self.root);
        self.make_directory(directory)?;
        let write = || {
            let mut file = Builder::new().prefix(TEMPORARY).tempfile_in(directory)?;
            file.write_all(bytes)?;
            file.as_file().sync_data()?;
            fs::hard_link(file.path(), &path)
        };
        match write() {
            Ok(()) => {
                sync_directory(directory)?;
                Ok(Created::Now)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Created::Exists),
            Err(error) => Err(failed("write", &path)(error)),
        }
    }

    fn read_range(
        &self,
        name: &str,
        offset: u64,
        length: u64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.root.join(name);
        let read = || {
            let mut file = OpenOptions::new().read(true).open(&path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.take(length).read_to_end(&mut bytes)?;
            io::Result::Ok(bytes)
        };
        match read() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, StoreError> {
        let mut found = Vec::new();
        let mut directories = vec![prefix.to_owned()];
        while let Some(name) = directories.pop() {
            let path = self.root.join(&name);
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("list", &path)(error)),
            };
            for entry in entries {
                let entry = entry.map_err(failed("list", &path))?;
                let Ok(below) = entry.file_name().into_string() else { continue };
                let metadata = match entry.metadata() {
                    Ok(metadata) => metadata,
                    // Another process has removed it since.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => return Err(failed("list", &path)(error)),
                };
                let name = format!("{name}/{below}");
                if metadata.is_dir() {
                    directories.push(name);
                } else if !below.starts_with(TEMPORARY) {
                    found.push((name, metadata.len()));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let path = self.root.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    fn place(&self) -> String {
        self.root.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_given_once_and_keeps_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(dir.path().join("a/b")).unwrap();
        assert_eq!(store.create("x/y/1", b"one").unwrap(), Created::Now);
        assert_eq!(store.create("x/y/1", b"two").unwrap(), Created::Exists);
        assert_eq!(store.read("x/y/1").unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(store.read_range("x/y/1", 1, 1).unwrap().as_deref(), Some(&b"n"[..]));
        assert_eq!(store.read("x/y/2").unwrap(), None);
        store.create("x/z", b"three").unwrap();
        let listed = store.list("x").unwrap();
        assert_eq!(listed, [("x/y/1".to_owned(), 3), ("x/z".to_owned(), 5)]);
        assert_eq!(store.list("none").unwrap(), []);
        store.delete("x/y/1").unwrap();
        store.delete("x/y/1").unwrap();
        assert_eq!(store.list("x").unwrap().len(), 1);
    }

    #[test]
    fn of_many_writers_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(dir.path()).unwrap();
        let won = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..8_u8)
                .map(|n| {
                    scope.spawn({
                        let store = &store;
                        move || store.create("m/1", &[n]).unwrap()
                    })
                })
                .collect();
            writers.into_iter().map(|w| w.join().unwrap()).filter(|c| *c == Created::Now).count()
        });
        assert_eq!(won, 1);
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), b"").unwrap();
        let error = DirectoryStore::open(dir.path().join("file/below")).unwrap_err().to_string();
        assert!(error.contains("file/below"), "{error}");
    }
}
