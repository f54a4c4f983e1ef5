//! Lines in files: one file a shard, written at offsets that are part of the checkpoint.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Release, Sink, Start};
use crate::generation::WhenDone;
use crate::ids::PartitionId;

/// The file that marks an output as unfinished; it holds the identity of the run. Files whose names
/// begin with its name are markers that a worker was writing when it was killed.
const MARKER: &str = ".ringfence-unfinished";

/// A sink that writes each record as a line, into files directly below a directory.
///
/// The fields of a tuple are separated by tabs, those of a tuple within it, too. The directory must be empty or absent when the run
/// begins, and must be the same one for all nodes. While the run is unfinished a hidden marker says
/// so; it is removed when the whole job is done.
///
/// Every line is written at an offset that the checkpoint holds, so that writing it again, by a
/// successor or by a node that was given up for dead, changes nothing. It survives the loss of
/// processes; it does not wait for the disk, so it does not survive a power cut.
///
/// ```
/// use ringfence_operators::prelude::*;
///
/// let out = LineFiles::new("out/totals");
/// # let _ = out;
/// ```
#[derive(Debug)]
pub struct LineFiles {
    directory: PathBuf,
    run: String,
    marked: bool,
    files: BTreeMap<PartitionId, File>,
}

impl LineFiles {
    /// Lines in files directly below `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        LineFiles {
            directory: directory.into(),
            run: String::new(),
            marked: false,
            files: BTreeMap::new(),
        }
    }

    fn marker(&self) -> PathBuf {
        self.directory.join(MARKER)
    }

    /// Marks the output as this run's, unless it is.
    fn mark(&mut self) -> io::Result<()> {
        if self.marked {
            return Ok(());
        }
        fs::create_dir_all(&self.directory).map_err(|error| about(&self.directory, error))?;
        // Written aside and linked, so that no other worker sees a half-written marker. Who is
        // killed in between leaves it behind; its name tells whose it is.
        let aside = tempfile::Builder::new()
            .prefix(&format!("{MARKER}."))
            .tempfile_in(&self.directory)
            .map_err(|error| about(&self.directory, error))?;
        aside.as_file().write_all(self.run.as_bytes())?;
        match fs::hard_link(aside.path(), self.marker()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.check_marker()?;
            }
            Err(error) => return Err(about(&self.marker(), error)),
        }
        self.marked = true;
        Ok(())
    }

    /// Whether there is a marker; an error if it is another run's.
    fn check_marker(&self) -> io::Result<bool> {
        match fs::read_to_string(self.marker()) {
            Ok(run) if run == self.run => Ok(true),
            Ok(run) => {
                let what = format!(
                    "{} holds the output of an unfinished run ({run}): remove it, or name another \
                     directory",
                    self.directory.display()
                );
                Err(io::Error::new(io::ErrorKind::AlreadyExists, what))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(about(&self.marker(), error)),
        }
    }

    fn path(&self, shard: PartitionId) -> PathBuf {
        self.directory.join(format!("part-{:05}", shard.0))
    }
}

/// Whether an entry of an output directory is a marker, or one that was being written.
fn is_marker(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with(MARKER)
}

/// Removes the marker, and those that killed workers had begun. Others may be doing the same.
fn remove_markers(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        // Nothing was ever released.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if !is_marker(&entry) {
            continue;
        }
        match fs::remove_file(entry.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn about(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl<D: Line + 'static> Sink<D> for LineFiles {
    /// The length of the file.
    type Position = u64;

    fn open(&mut self, start: &Start) -> io::Result<()> {
        self.run = start.run.clone();
        self.marked = self.check_marker()?;
        if self.marked || !start.first_view {
            return Ok(());
        }
        let mut entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(about(&self.directory, error)),
        };
        let output = entries.find(|entry| !entry.as_ref().is_ok_and(is_marker)).transpose()?;
        // Another worker of this run may have begun between the check above and this one.
        if let Some(found) = output
            && !self.check_marker()?
        {
            let what = format!(
                "{} is not empty (it holds {:?}): name a new directory for the output",
                self.directory.display(),
                found.file_name()
            );
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Ok(())
    }

    fn prepare(&mut self, at: &mut u64, rows: &[D]) -> io::Result<Vec<u8>> {
        let mut prepared = at.to_le_bytes().to_vec();
        for row in rows {
            row.write_line(&mut prepared);
            prepared.push(b'\n');
        }
        *at += prepared.len() as u64 - 8;
        Ok(prepared)
    }

    fn release(&mut self, id: &Release, prepared: &[u8]) -> io::Result<()> {
        let Some((offset, lines)) = prepared.split_first_chunk() else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "prepared lines are cut short"));
        };
        let offset = u64::from_le_bytes(*offset);
        self.mark()?;
        let path = self.path(id.shard);
        let file = match self.files.entry(id.shard) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let mut options = File::options();
                options.write(true).create(true).truncate(false);
                let file = options.open(&path).map_err(|error| about(&path, error))?;
                let length = file.metadata().map_err(|error| about(&path, error))?.len();
                if length < offset {
                    let what = format!(
                        "{} has {length} bytes where {offset} were released: the directory must \
                         be the same one for all nodes",
                        path.display()
                    );
                    return Err(io::Error::new(io::ErrorKind::NotFound, what));
                }
                entry.insert(file)
            }
        };
        file.write_all_at(lines, offset).map_err(|error| about(&path, error))
    }

    fn when_done(&self) -> Option<WhenDone> {
        let directory = self.directory.clone();
        Some(Box::new(move || remove_markers(&directory).map_err(|error| about(&directory, error))))
    }
}

/// A record that can be written as a line.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be written as a line",
    note = "lines are written from strings, numbers, and tuples of them: map the stream to one of these, or \
            implement `Line` for it"
)]
pub trait Line {
    /// Appends the line, without its end.
    fn write_line(&self, line: &mut Vec<u8>);
}

/// A part of a line; a tuple's fields are several.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be part of a line",
    note = "lines are written from strings, numbers, and tuples of them: map the stream to one of these, or \
            implement `Line` for a record"
)]
pub trait Field {
    /// Appends the field.
    fn write_field(&self, line: &mut Vec<u8>);
}

macro_rules! displayed {
    ($($field:ty),*) => { $(
        impl Field for $field {
            fn write_field(&self, line: &mut Vec<u8>) {
                // Writing to a vector cannot fail.
                let _ = write!(line, "{self}");
            }
        }
        impl Line for $field {
            fn write_line(&self, line: &mut Vec<u8>) {
                self.write_field(line);
            }
        }
    )* };
}

displayed!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64, bool, char);

macro_rules! text {
    ($($field:ty),*) => { $(
        impl Field for $field {
            fn write_field(&self, line: &mut Vec<u8>) {
                line.extend_from_slice(self.as_bytes());
            }
        }
        impl Line for $field {
            fn write_line(&self, line: &mut Vec<u8>) {
                self.write_field(line);
            }
        }
    )* };
}

text!(String, &str);

macro_rules! tuple {
    ($first:ident $($rest:ident)*) => {
        impl<$first: Field, $($rest: Field),*> Line for ($first, $($rest,)*) {
            #[allow(non_snake_case)]
            fn write_line(&self, line: &mut Vec<u8>) {
                let ($first, $($rest,)*) = self;
                $first.write_field(line);
                $(
                    line.push(b'\t');
                    $rest.write_field(line);
                )*
            }
        }
        impl<$first: Field, $($rest: Field),*> Field for ($first, $($rest,)*) {
            fn write_field(&self, line: &mut Vec<u8>) {
                self.write_line(line);
            }
        }
    };
}

tuple!(A);
tuple!(A B);
tuple!(A B C);
tuple!(A B C D);
tuple!(A B C D E);
tuple!(A B C D E F);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, OperatorName, ViewNumber};

    fn release(shard: u32, epoch: u64) -> Release {
        Release {
            run: "run".to_owned(),
            sink: OperatorName::new("out"),
            shard: PartitionId(shard),
            epoch: Epoch(epoch),
            previous: None,
            view: ViewNumber(1),
        }
    }

    fn started(directory: &Path, run: &str, first_view: bool) -> io::Result<LineFiles> {
        let mut sink = LineFiles::new(directory);
        let start = Start { run: run.to_owned(), first_view };
        Sink::<(String, u64)>::open(&mut sink, &start).map(|()| sink)
    }

    type Row = (String, u64);

    #[test]
    fn a_second_release_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("totals");
        let mut sink = started(&out, "run", true).unwrap();
        let mut at = 0;
        let first = sink.prepare(&mut at, &[("a".to_owned(), 1), ("b".to_owned(), 1)]).unwrap();
        let second = sink.prepare(&mut at, &[("a".to_owned(), 2)]).unwrap();
        assert_eq!(at, 12);
        Sink::<Row>::release(&mut sink, &release(7, 1), &first).unwrap();
        Sink::<Row>::release(&mut sink, &release(7, 2), &second).unwrap();
        let mut successor = started(&out, "run", false).unwrap();
        Sink::<Row>::release(&mut successor, &release(7, 1), &first).unwrap();
        assert_eq!(fs::read_to_string(out.join("part-00007")).unwrap(), "a\t1\nb\t1\na\t2\n");
        assert!(out.join(MARKER).exists());
        Sink::<Row>::when_done(&sink).unwrap()().unwrap();
        Sink::<Row>::when_done(&sink).unwrap()().unwrap();
        assert!(!out.join(MARKER).exists());
    }

    #[test]
    fn output_of_another_run_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut sink = started(directory.path(), "run", true).unwrap();
        Sink::<Row>::release(&mut sink, &release(0, 1), &[0; 8]).unwrap();
        assert!(started(directory.path(), "run", true).is_ok());
        let error = started(directory.path(), "other", true).unwrap_err();
        assert!(error.to_string().contains("unfinished run"), "{error}");
        Sink::<Row>::when_done(&sink).unwrap()().unwrap();
        let error = started(directory.path(), "other", true).unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
    }

    #[test]
    fn a_marker_that_was_not_finished_is_no_output_and_goes_with_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let begun = directory.path().join(format!("{MARKER}.abc"));
        fs::write(&begun, "ru").unwrap();
        let mut sink = started(directory.path(), "run", true).unwrap();
        Sink::<Row>::release(&mut sink, &release(0, 1), &[0; 8]).unwrap();
        Sink::<Row>::when_done(&sink).unwrap()().unwrap();
        let left: Vec<_> = directory.path().read_dir().unwrap().map(|e| e.unwrap()).collect();
        assert!(!left.iter().any(is_marker), "{left:?}");
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn a_successor_without_the_directory_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let mut sink = started(directory.path(), "run", false).unwrap();
        let prepared = [&100u64.to_le_bytes()[..], b"late\n"].concat();
        let error = Sink::<Row>::release(&mut sink, &release(3, 9), &prepared).unwrap_err();
        assert!(error.to_string().contains("part-00003"), "{error}");
    }
}
