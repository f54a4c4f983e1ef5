//! A running word count on bare timely: what a user starts from.
//!
//! Every occurrence of a word becomes a line `word<TAB>n`, where n is its running count. Nothing
//! here survives a failure: kill one process, and the job is gone. `word_count` is the same job,
//! protected.
//!
//! ```text
//! cargo run --release --example word_count_bare -- -w 2 --passes 5
//! ```

mod support;

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::options::{HELP, Options};
use support::verify::verify;
use support::{fresh_output, remove_output, say, words};
use timely::CommunicationConfig;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::vec::Map;
use timely::dataflow::operators::{Operator, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};
use timely::worker::Worker;

/// How long an epoch takes.
const EPOCH: Duration = Duration::from_millis(100);

/// Lines that are read before the dataflow gets a turn.
const LINES_PER_STEP: u64 = 512;

/// Epochs by which reading may be ahead of counting.
const EPOCHS_IN_FLIGHT_MAX: u64 = 4;

fn main() {
    match run() {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err((text, code)) => {
            eprintln!("error: {text}");
            std::process::exit(code);
        }
    }
}

fn run() -> Result<bool, (String, i32)> {
    let options = Options::from_args(std::env::args()).map_err(|text| (text, 2))?;
    if options.help {
        println!(
            "Usage: word_count_bare [-w NUM] [-n NUM -p NUM [-h HOSTFILE]] [OPTIONS]\n\n{HELP}"
        );
        return Ok(true);
    }
    if let Some(flag) = ["local", "backups", "fault"].iter().find(|f| options.has_flag(&[], &[f])) {
        return Err((format!("--{flag} needs Ringfence: see the example word_count"), 2));
    }
    options.check_files().map_err(|text| (text, 1))?;
    let config = timely::Config::from_args(options.rest.iter().skip(1).cloned());
    let config = config.map_err(|text| (text, 2))?;
    let is_alone = !matches!(config.communication, CommunicationConfig::Cluster { .. });
    let totals = create_totals(&options, is_alone).map_err(|text| (text, 1))?;

    let begin = Instant::now();
    let (files, passes, parts) = (options.files.clone(), options.passes, totals.clone());
    let guards = timely::execute(config, move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let part = File::create_new(parts.join(format!("part-{index}")))?;
        let mut input = InputHandle::new();
        let probe = count(worker, &mut input, BufWriter::new(part));

        let (started, mut lines) = (Instant::now(), 0u64);
        for _pass in 0..passes {
            for file in &files {
                each_line(file, index, peers, |line| {
                    input.send(line);
                    lines += 1;
                    if lines.is_multiple_of(LINES_PER_STEP) {
                        let epoch = (started.elapsed().as_millis() / EPOCH.as_millis()) as u64;
                        if epoch > *input.time() {
                            input.advance_to(epoch);
                        }
                        worker.step();
                        while probe.less_than(&epoch.saturating_sub(EPOCHS_IN_FLIGHT_MAX)) {
                            worker.step();
                        }
                    }
                })?;
            }
        }
        io::Result::Ok(lines)
        // The input is closed here, and timely steps the worker until all is done.
    });

    let mut lines = 0;
    for worker in guards.map_err(|text| (text, 1))?.join() {
        lines += worker.map_err(|text| (text, 1))?.map_err(|error| (error.to_string(), 1))?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!("{lines} lines in {seconds:.2} s, {:.0} lines/s", lines as f64 / seconds);
    println!("output: {}", totals.display());
    if !is_alone {
        println!("not verified: the output is complete when all processes have ended");
        return Ok(true);
    }
    let verdict = verify(&options.files, options.passes, &totals);
    let verdict = verdict.map_err(|error| (error.to_string(), 1))?;
    say(&verdict);
    if options.remove_output
        && let Some(fresh) = totals.parent()
    {
        remove_output(fresh).map_err(|error| (error.to_string(), 1))?;
    }
    Ok(verdict.is_exactly_once())
}

/// Builds the dataflow: the running counts of the words of `input` are written to `part`.
fn count(
    worker: &mut Worker,
    input: &mut InputHandle<u64, CapacityContainerBuilder<Vec<String>>>,
    mut part: BufWriter<File>,
) -> ProbeHandle<u64> {
    let probe = ProbeHandle::new();
    worker.dataflow::<u64, _, _>(|scope| {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let by_word = Exchange::new(move |word: &String| hasher.hash_one(word));
        let mut counts = HashMap::<String, u64>::new();
        input
            .to_stream(scope)
            .flat_map(|line: String| words(&line).collect::<Vec<_>>())
            .unary::<CapacityContainerBuilder<Vec<_>>, _, _, _>(by_word, "counts", |_, _| {
                move |input, output| {
                    input.for_each_stamp(|capability, batches| {
                        let mut session = output.session(&capability);
                        for word in batches.flat_map(|batch| batch.drain(..)) {
                            let count = counts.entry(word.clone()).or_default();
                            *count += 1;
                            session.give((word, *count));
                        }
                    });
                }
            })
            .probe_with(&probe)
            .sink(Pipeline, "totals", move |(input, frontier)| {
                input.for_each_stamp(|_, batches| {
                    for (word, n) in batches.flat_map(|batch| batch.drain(..)) {
                        writeln!(part, "{word}\t{n}").expect("the output can be written");
                    }
                });
                if frontier.is_empty() {
                    part.flush().expect("the output can be written");
                }
            });
    });
    probe
}

/// Creates `DIR/totals`. Alone, it must be empty; with others, they may have begun to write there.
fn create_totals(options: &Options, is_alone: bool) -> Result<PathBuf, String> {
    let out = match &options.out {
        Some(out) => out.clone(),
        None => fresh_output("word-count")
            .map_err(|error| format!("cannot create a temporary directory: {error}"))?,
    };
    let totals = out.join("totals");
    let entries = std::fs::create_dir_all(&totals).and_then(|()| std::fs::read_dir(&totals));
    let is_empty = entries
        .map_err(|error| format!("cannot write to {}: {error}", totals.display()))?
        .next()
        .is_none();
    if is_alone && !is_empty {
        let totals = totals.display();
        return Err(format!("{totals} has output already: remove it, or name another --out"));
    }
    Ok(totals)
}

/// Calls `on` with the lines of `file` that begin in the `index`th of `peers` equal ranges of it.
fn each_line(
    file: &Path,
    index: usize,
    peers: usize,
    mut on: impl FnMut(String),
) -> io::Result<()> {
    let mut reader = BufReader::new(File::open(file)?);
    let length = reader.get_ref().metadata()?.len();
    let (start, end) =
        (length * index as u64 / peers as u64, length * (index as u64 + 1) / peers as u64);
    let mut line = Vec::new();
    let mut at = start;
    if start > 0 {
        // A line that begins earlier is another worker's; its end may be the byte before `start`.
        reader.seek(SeekFrom::Start(start - 1))?;
        at = start - 1 + reader.read_until(b'\n', &mut line)? as u64;
    }
    while at < end {
        line.clear();
        match reader.read_until(b'\n', &mut line)? {
            // The file has become shorter.
            0 => break,
            length => at += length as u64,
        }
        on(String::from_utf8_lossy(&line).into_owned());
    }
    Ok(())
}
