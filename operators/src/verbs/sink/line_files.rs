//! Lines in files: one file per shard, written at offsets that are part of the checkpoint.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Release, Sink, Start};
use crate::fence::generation::WhenDone;
use crate::ids::{OperatorName, PartitionId};
use crate::paths::{resolved, shown};

/// The file that marks an output as unfinished; it holds the identity of the run and the sink's name. Files
/// whose names begin with this name are markers that a worker was writing when it was killed.
const MARKER: &str = ".ringfence-unfinished";

/// A sink that writes each record as a line, into files directly below a directory.
///
/// The fields of a tuple are separated by tabs, as are those of a nested tuple. The directory must be empty
/// or absent when the run begins, and all nodes must share it. A hidden marker shows that the run is
/// unfinished; it is removed when the whole job is done. A job without results leaves an empty directory.
///
/// Every line is written at an offset that the checkpoint holds, so that writing it again, by a
/// successor or by a node that was given up for dead, changes nothing. The output survives the loss of
/// processes. With `--durable-commit` it is synced to the disk, and survives a power failure, too.
///
/// What was written must stay there until the job is done. If the directory or a file in it is removed,
/// renamed, truncated or appended to in the meantime, the job ends with an error that names it: when the next
/// lines are written, or at the latest when the job is done.
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
    /// Whether what is written must survive a power cut.
    durable: bool,
    files: BTreeMap<PartitionId, File>,
    /// The files that were complete at the end, and their lengths.
    finished: Parts,
}

type Parts = Arc<Mutex<BTreeMap<PathBuf, u64>>>;

impl LineFiles {
    /// A sink that writes lines to files directly below `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        LineFiles {
            directory: directory.into(),
            run: String::new(),
            marked: false,
            durable: false,
            files: BTreeMap::new(),
            finished: Arc::default(),
        }
    }

    fn marker(&self) -> PathBuf {
        self.directory.join(MARKER)
    }

    /// Marks the output as that of this run and sink, unless it is already marked.
    fn mark(&mut self, sink: &OperatorName) -> io::Result<()> {
        if self.marked {
            return Ok(());
        }
        fs::create_dir_all(&self.directory).map_err(|error| about(&self.directory, error))?;
        // Written under another name and linked, so that no other worker sees a half-written marker. A worker
        // that is killed in between leaves it behind; its name shows whose it is.
        let aside = tempfile::Builder::new()
            .prefix(&format!("{MARKER}."))
            .tempfile_in(&self.directory)
            .map_err(|error| about(&self.directory, error))?;
        let text = format!("{}\n{sink}", self.run);
        aside.as_file().write_all(text.as_bytes())?;
        match fs::hard_link(aside.path(), self.marker()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.check_marker(Some(sink))?;
            }
            Err(error) => return Err(about(&self.marker(), error)),
        }
        self.marked = true;
        Ok(())
    }

    /// Whether there is a marker; an error if it belongs to another run or another sink.
    fn check_marker(&self, sink: Option<&OperatorName>) -> io::Result<bool> {
        let text = match fs::read_to_string(self.marker()) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(about(&self.marker(), error)),
        };
        let (run, other) = text.split_once('\n').unwrap_or((&text, ""));
        let directory = shown(&self.directory);
        let what = if run != self.run {
            format!(
                "{directory} holds the output of an unfinished run ({run}): remove it, or name another \
                 directory"
            )
        } else if sink.is_some_and(|sink| *sink.0 != *other) {
            format!(
                "{directory} is where sink \"{other}\" of this job writes: give each sink its own \
                 directory"
            )
        } else {
            return Ok(true);
        };
        Err(io::Error::new(io::ErrorKind::AlreadyExists, what))
    }

    fn path(&self, shard: PartitionId) -> PathBuf {
        self.directory.join(format!("part-{:05}", shard.0))
    }

    /// The open file of a shard, of which `offset` bytes were released; an error if its length differs.
    fn file(&mut self, shard: PartitionId, offset: u64) -> io::Result<&File> {
        let path = self.path(shard);
        if !self.files.contains_key(&shard) {
            // A directory that is not marked is not the one in which the run began to write.
            if !self.check_marker(None)? {
                return Err(gone(&self.directory));
            }
            let mut options = File::options();
            options.write(true).create(offset == 0).truncate(false);
            let file = match options.open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(gone(&path)),
                opened => opened.map_err(|error| about(&path, error))?,
            };
            self.files.insert(shard, file);
        }
        let file = &self.files[&shard];
        let open = file.metadata().map_err(|error| about(&path, error))?;
        match fs::metadata(&path) {
            Ok(named) if (named.dev(), named.ino()) == (open.dev(), open.ino()) => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(about(&path, error));
            }
            _ => return Err(gone(&path)),
        }
        if open.len() < offset {
            return Err(other_length(&path, open.len(), offset));
        }
        Ok(file)
    }
}

/// The error for output that no longer exists.
fn gone(path: &Path) -> io::Error {
    let path = shown(path);
    let what = format!(
        "{path} no longer exists: the output must not be removed, renamed or replaced \
         before the job is done, and must be the same directory for all nodes"
    );
    io::Error::new(io::ErrorKind::NotFound, what)
}

fn other_length(path: &Path, length: u64, released: u64) -> io::Error {
    let path = shown(path);
    let what = format!(
        "{path} has {length} bytes where {released} were written: the output must not be changed \
         before the job is done, and must be the same directory for all nodes"
    );
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Checks that a file exists, with exactly the length that was written to it.
fn check_whole(path: &Path, released: u64) -> io::Result<()> {
    // Opened, so that the length is correct on a network file system, too.
    let length = match File::open(path).and_then(|file| file.metadata()) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(gone(path)),
        Err(error) => return Err(about(path, error)),
    };
    if length == released { Ok(()) } else { Err(other_length(path, length, released)) }
}

/// Whether an entry of an output directory is a marker, or a marker that was being written.
fn is_marker(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with(MARKER)
}

/// Checks that the output is complete, and removes the marker and those that killed workers had begun to
/// write. Other nodes may be doing the same.
fn conclude(directory: &Path, parts: &Parts) -> io::Result<()> {
    for (path, released) in parts.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        check_whole(path, *released)?;
    }
    // If nothing was ever released, there is none.
    fs::create_dir_all(directory).map_err(|error| about(directory, error))?;
    for entry in fs::read_dir(directory).map_err(|error| about(directory, error))? {
        let entry = entry.map_err(|error| about(directory, error))?;
        if !is_marker(&entry) {
            continue;
        }
        match fs::remove_file(entry.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(about(&entry.path(), error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn about(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", shown(path)))
}

impl<D: Line + 'static> Sink<D> for LineFiles {
    /// The length of the file.
    type Position = u64;

    fn open(&mut self, start: &Start) -> io::Result<()> {
        self.run = start.run.clone();
        self.durable = start.durable;
        if self.check_marker(None)? || !start.first_view {
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
            && !self.check_marker(None)?
        {
            let what = format!(
                "{} is not empty (it holds {:?}): name a new directory for the output",
                shown(&self.directory),
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
        self.mark(&id.sink)?;
        let is_durable = self.durable;
        let file = self.file(id.shard, offset)?;
        let mut written = file.write_all_at(lines, offset);
        if is_durable {
            // The name of a new file is an entry of its directory.
            written = written.and_then(|()| file.sync_data());
            if offset == 0 {
                let directory = File::open(&self.directory);
                written = written.and_then(|()| directory?.sync_all());
            }
        }
        written.map_err(|error| about(&self.path(id.shard), error))
    }

    fn cut_back(&mut self, shard: PartitionId, at: Option<&u64>) -> io::Result<()> {
        let path = self.path(shard);
        let length = at.copied().unwrap_or(0);
        let file = match File::options().write(true).open(&path) {
            Ok(file) => file,
            // What was prepared and not released yet may begin the file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(about(&path, error)),
        };
        let cut = file
            .metadata()
            .and_then(|found| if found.len() > length { file.set_len(length) } else { Ok(()) });
        cut.map_err(|error| about(&path, error))
    }

    fn finish(&mut self, shard: PartitionId, at: &u64) -> io::Result<()> {
        let path = self.path(shard);
        check_whole(&path, *at)?;
        self.finished.lock().unwrap_or_else(PoisonError::into_inner).insert(path, *at);
        Ok(())
    }

    fn target(&self) -> io::Result<Option<String>> {
        let target = resolved(&self.directory).map_err(|error| about(&self.directory, error))?;
        Ok(Some(shown(&target)))
    }

    fn when_done(&self) -> Option<WhenDone> {
        let (directory, parts) = (self.directory.clone(), Arc::clone(&self.finished));
        Some(Box::new(move || conclude(&directory, &parts)))
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
        let start = Start { run: run.to_owned(), first_view, durable: false };
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
        let prepared = prepared(100, "late\n");
        let error = Sink::<Row>::release(&mut sink, &release(3, 9), &prepared).unwrap_err();
        assert!(error.to_string().contains("part-00003"), "{error}");
    }

    fn prepared(offset: u64, lines: &str) -> Vec<u8> {
        [&offset.to_le_bytes()[..], lines.as_bytes()].concat()
    }

    /// An output of 6 bytes in shard 1, and a sink that goes on with it.
    fn begun(directory: &Path) -> (PathBuf, LineFiles) {
        let out = directory.join("out");
        let mut sink = started(&out, "run", true).unwrap();
        Sink::<Row>::release(&mut sink, &release(1, 1), &prepared(0, "a\t1\nbc")).unwrap();
        (out, sink)
    }

    #[test]
    fn what_is_changed_under_a_sink_is_named() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 5] = [
            ("part-00001 no longer exists", |out| fs::remove_file(out.join("part-00001")).unwrap()),
            ("part-00001 no longer exists", |out| fs::remove_dir_all(out).unwrap()),
            ("part-00001 no longer exists", |out| {
                fs::rename(out, out.with_extension("old")).unwrap()
            }),
            ("part-00001 no longer exists", |out| {
                fs::rename(out.join("part-00001"), out.join("other")).unwrap();
                fs::write(out.join("part-00001"), "a\t1\nbc").unwrap();
            }),
            ("has 3 bytes where 6", |out| fs::write(out.join("part-00001"), "a\t1").unwrap()),
        ];
        for (told, change) in changes {
            let directory = tempfile::tempdir().unwrap();
            let (out, mut sink) = begun(directory.path());
            change(&out);
            let next = prepared(6, "\n");
            let error = Sink::<Row>::release(&mut sink, &release(1, 2), &next).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(told) && text.contains("out/part-00001"), "{text}");
        }
    }

    #[test]
    fn a_successor_does_not_begin_a_new_directory_for_one_that_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (out, mut sink) = begun(directory.path());
        fs::remove_dir_all(&out).unwrap();
        let error =
            Sink::<Row>::release(&mut sink, &release(2, 2), &prepared(0, "x\n")).unwrap_err();
        assert!(error.to_string().contains("out no longer exists"), "{error}");
    }

    #[test]
    fn what_is_to_come_again_is_cut_back() {
        let directory = tempfile::tempdir().unwrap();
        let (out, mut sink) = begun(directory.path());
        let length = || fs::metadata(out.join("part-00001")).unwrap().len();
        let cut = |sink: &mut LineFiles, shard: u32, at: Option<u64>| {
            Sink::<Row>::cut_back(sink, PartitionId(shard), at.as_ref()).unwrap();
        };
        cut(&mut sink, 2, None);
        // What was prepared and is not written yet makes a file shorter than its position.
        cut(&mut sink, 1, Some(9));
        assert_eq!(length(), 6);
        cut(&mut sink, 1, Some(4));
        assert_eq!(length(), 4);
        Sink::<Row>::release(&mut sink, &release(1, 2), &prepared(4, "d\t1\n")).unwrap();
        assert_eq!(fs::read_to_string(out.join("part-00001")).unwrap(), "a\t1\nd\t1\n");
        cut(&mut sink, 1, None);
        assert_eq!(length(), 0);
    }

    #[test]
    fn what_is_not_whole_at_the_end_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (out, mut sink) = begun(directory.path());
        let finish = |sink: &mut LineFiles, at: u64| Sink::<Row>::finish(sink, PartitionId(1), &at);
        let error = finish(&mut sink, 7).unwrap_err();
        assert!(error.to_string().contains("has 6 bytes where 7"), "{error}");
        finish(&mut sink, 6).unwrap();
        fs::write(out.join("part-00001"), "a\t1\nbc and more").unwrap();
        let error = Sink::<Row>::when_done(&sink).unwrap()().unwrap_err();
        assert!(error.to_string().contains("where 6 were written"), "{error}");
        fs::remove_file(out.join("part-00001")).unwrap();
        let error = Sink::<Row>::when_done(&sink).unwrap()().unwrap_err();
        assert!(error.to_string().contains("part-00001 no longer exists"), "{error}");
    }

    #[test]
    fn a_second_sink_of_the_run_is_refused_by_the_marker() {
        let directory = tempfile::tempdir().unwrap();
        let (out, _sink) = begun(directory.path());
        let mut other = started(&out, "run", true).unwrap();
        let id = Release { sink: OperatorName::new("other"), ..release(2, 1) };
        let error = Sink::<Row>::release(&mut other, &id, &prepared(0, "x\n")).unwrap_err();
        assert!(error.to_string().contains("where sink \"out\" of this job writes"), "{error}");
    }

    #[test]
    fn without_results_there_is_an_empty_directory() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let sink = started(&out, "run", true).unwrap();
        Sink::<Row>::when_done(&sink).unwrap()().unwrap();
        assert_eq!(out.read_dir().unwrap().count(), 0);
    }
}
