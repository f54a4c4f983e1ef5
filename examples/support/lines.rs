//! Lines in files, as bare jobs write them: what `LineFiles` is to protected ones.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use differential_dataflow::lattice::Lattice;
use differential_dataflow::{ExchangeData, VecCollection};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Operator;
use timely::dataflow::operators::vec::Map;
use timely::progress::Timestamp;

/// A record that is a line: its fields, separated by tabs.
pub trait Fields: 'static {
    /// Its fields as text.
    fn fields(&self) -> Vec<String>;
}

macro_rules! fields {
    ($($name:ident),*) => {
        impl<$($name: Display + 'static),*> Fields for ($($name,)*) {
            #[allow(non_snake_case, reason = "a type's letter names its value")]
            fn fields(&self) -> Vec<String> {
                let ($($name,)*) = self;
                vec![$($name.to_string()),*]
            }
        }
    };
}

fields!(A);
fields!(A, B);
fields!(A, B, C);
fields!(A, B, C, D);
fields!(A, B, C, D, E);
fields!(A, B, C, D, E, F);
fields!(A, B, C, D, E, F, G);
fields!(A, B, C, D, E, F, G, H);

impl Fields for String {
    fn fields(&self) -> Vec<String> {
        vec![self.clone()]
    }
}

/// Writes a stream to files.
pub trait WriteLines<'scope, T: Timestamp> {
    /// Writes each record as a line to a file of this worker below `directory`; returns a stream
    /// without records.
    fn write_lines(self, directory: &Path) -> StreamVec<'scope, T, ()>;
}

impl<'scope, T: Timestamp, D: Fields> WriteLines<'scope, T> for StreamVec<'scope, T, D> {
    fn write_lines(self, directory: &Path) -> StreamVec<'scope, T, ()> {
        let path = directory.join(format!("part-{:05}", self.scope().index()));
        let file = fs::create_dir_all(directory).and_then(|()| File::create_new(&path));
        let file = file.unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
        let mut file = BufWriter::new(file);
        self.unary_frontier::<CapacityContainerBuilder<_>, _, _, _>(
            Pipeline,
            "write_lines",
            move |_, _| {
                move |(input, frontier), _output| {
                    input.for_each_stamp(|_, batches| {
                        for record in batches.flat_map(|batch| batch.drain(..)) {
                            let line = record.fields().join("\t");
                            writeln!(file, "{line}").expect("the output can be written");
                        }
                    });
                    if frontier.is_empty() {
                        file.flush().expect("the output can be written");
                    }
                }
            },
        )
    }
}

/// Writes a collection to files.
pub trait WriteUpdates<'scope, T: Timestamp> {
    /// Writes each change as a line to a file of this worker below `directory`: the data's fields, the
    /// time, the difference. What changes at one time is added up first, so that no datum has two lines
    /// for a time.
    fn write_lines(self, directory: &Path) -> StreamVec<'scope, T, ()>;
}

impl<'scope, T, D> WriteUpdates<'scope, T> for VecCollection<'scope, T, D, isize>
where
    T: Timestamp + Lattice + Display,
    D: ExchangeData + differential_dataflow::Hashable + Fields,
{
    fn write_lines(self, directory: &Path) -> StreamVec<'scope, T, ()> {
        let changes = self.consolidate().inner.map(|(data, time, diff)| {
            let mut fields = data.fields();
            fields.extend([time.to_string(), diff.to_string()]);
            fields.join("\t")
        });
        WriteLines::write_lines(changes, directory)
    }
}
