//! A running word count that survives the loss of its workers, exactly once.
//!
//! Every occurrence of a word becomes a line `word<TAB>n`, where n is its running count: over all
//! files of the output, each word has each n from 1 to its count once, whatever failed on the way.
//! `word_count_bare` is the same job on bare timely.
//!
//! ```text
//! cargo run --release --example word_count
//! ```
//!
//! starts three nodes, kills one of them half-way, and compares the output with a plain computation.

mod support;

use std::path::PathBuf;

use ringfence::prelude::*;
use ringfence::{Config, Error, Kind, Mode, Outcome};
use support::options::{HELP, Options};
use support::verify::verify;
use support::{fresh_output, remove_output, say, words};

fn main() {
    match run() {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(error) => error.exit(),
    }
}

/// Runs the job; returns whether its output is right, as far as this process can tell.
fn run() -> ringfence::Result<bool> {
    let mut options = Options::from_args(std::env::args()).map_err(Error::usage)?;
    if options.help {
        say(Config::help("word_count", HELP));
        return Ok(true);
    }
    options.assume_defaults();
    let (config, free) = Config::from_args(options.rest.clone())?;
    if let Some(stray) = free.first() {
        let text = format!("unexpected argument {stray}: files come after a second `--`");
        return Err(Error::usage(text));
    }
    options.check_files().map_err(Error::input)?;
    let out = output_directory(&mut options, &config)?;
    let config = config.node_args(options.node_args());

    let Outcome { summary, .. } = word_count(config, &options, out.join("totals"))?;
    let Some(summary) = summary else { return Ok(true) };
    say(&summary);
    say(format_args!("output: {}", out.join("totals").display()));
    say("comparing the output with a plain computation ...");
    let verdict = verify(&options.files, options.passes, &out.join("totals"));
    let verdict = verdict.map_err(|error| Error::input("cannot verify").because(error))?;
    say(&verdict);
    if options.remove_output {
        remove_output(&out)
            .map_err(|error| Error::input("cannot remove the output").because(error))?;
    }
    Ok(verdict.is_exactly_once())
}

fn word_count(
    config: Config,
    options: &Options,
    totals: PathBuf,
) -> ringfence::Result<Outcome<()>> {
    let (files, passes) = (options.files.clone(), options.passes as u32);
    ringfence::execute(config, move |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            TextFiles::new(files.clone())
                .passes(passes)
                .to_stream_fenced(scope, "lines")
                .flat_map(|line: String| words(&line).collect::<Vec<_>>())
                .fold_fenced("counts", String::clone, 0, |count: &mut u64, word, out| {
                    *count += 1;
                    out.give((word, *count));
                })
                .sink_fenced("totals", LineFiles::new(&totals));
        });
    })
}

/// The directory for the output; a fresh one if none was named.
fn output_directory(options: &mut Options, config: &Config) -> ringfence::Result<PathBuf> {
    if let Some(out) = &options.out {
        return Ok(out.clone());
    }
    if let Mode::Member { .. } = config.mode() {
        let text = "--out is needed with -p: all processes must write to the same directory";
        return Err(Error::usage(text));
    }
    let fresh = fresh_output("word-count").map_err(|error| {
        Error::new(Kind::Input, "cannot create a temporary directory").because(error)
    })?;
    Ok(options.out.insert(fresh).clone())
}
