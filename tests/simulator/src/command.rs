//! Command: many seeds, on all cores, with a summary at the end.

use std::ffi::OsString;
use std::io::{IsTerminal, stderr};
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::faults::{FAULTS, FaultCounts};
use super::plant::Plant;
use super::run::{Outcome, run};
use super::verdict::Ending;

/// The least time between two plain lines of progress.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// After so many violations no further seed is begun.
const VIOLATIONS_MAX: usize = 10;

/// What the command is asked to do.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// The seeds, each of which is one run.
    pub seeds: Range<u64>,
    /// The bug that is put in on purpose.
    pub plant: Option<Plant>,
    /// Whether what happens is printed.
    pub trace: bool,
    /// When to begin no further seed.
    pub limit: Option<Duration>,
    /// How many threads share the seeds.
    pub threads: usize,
}

/// What became of a sweep.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// How many seeds were run.
    pub seeds: u64,
    /// How much time passed in all simulations.
    pub simulated_us: u64,
    /// How many events there were.
    pub events: u64,
    /// How many views were agreed.
    pub views: u64,
    /// How many processes were taken in, and how many planned views moved partitions.
    pub comebacks: [u64; 2],
    /// How many views were stopped by somebody.
    pub recoveries: u64,
    /// How many releases came again.
    pub repeated_releases: u64,
    /// How many jobs finished, lost their state, or had nobody left.
    pub endings: [u64; 3],
    /// The faults that fired.
    pub faults: FaultCounts,
    /// The seeds that broke something, and what.
    pub violations: Vec<(u64, String)>,
}

impl Totals {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.simulated_us += outcome.simulated_us;
        self.events += outcome.events;
        self.views += outcome.views;
        self.comebacks[0] += outcome.joined;
        self.comebacks[1] += outcome.moved;
        self.recoveries += outcome.recoveries;
        self.repeated_releases += outcome.repeated_releases;
        self.faults.add(&outcome.faults);
        match (&outcome.violation, outcome.ending) {
            (Some(what), _) => self.violations.push((outcome.seed, what.clone())),
            (None, Ending::Finished) => self.endings[0] += 1,
            (None, Ending::Lost) => self.endings[1] += 1,
            (None, Ending::NobodyLeft) => self.endings[2] += 1,
        }
    }
}

/// Runs the command line; exit code 1 says that something was broken, 2 that a flag was wrong.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => {
            // A closed pipe is no reason to fail once more.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    match sweep_of(&matches) {
        Ok(sweep) => {
            let begun = Instant::now();
            let totals = sweep.run();
            print!("{}", summary(&totals, &sweep, begun.elapsed()));
            ExitCode::from(u8::from(!totals.violations.is_empty()))
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn command() -> Command {
    Command::new("ringfence-simulator")
        .about("Simulates whole clusters in one thread each, under seeds, with faults")
        .arg(
            Arg::new("seeds")
                .long("seeds")
                .value_name("A..B")
                .default_value("0..1000")
                .help("The seeds to run, B not included; or a single one"),
        )
        .arg(
            Arg::new("plant")
                .long("plant")
                .value_name("BUG")
                .help("Puts a bug in on purpose; a wrong name lists them"),
        )
        .arg(
            Arg::new("trace")
                .long("trace")
                .action(ArgAction::SetTrue)
                .help("Prints all that happens, on one thread"),
        )
        .arg(
            Arg::new("seconds")
                .long("seconds")
                .value_name("S")
                .value_parser(value_parser!(u64).range(1..))
                .help("Begins no further seed after so many seconds; --seeds says where to begin"),
        )
        .arg(
            Arg::new("threads")
                .long("threads")
                .value_name("N")
                .value_parser(value_parser!(u64).range(1..=1024))
                .help("How many threads share the seeds [default: one for each core]"),
        )
}

fn sweep_of(matches: &ArgMatches) -> Result<Sweep, String> {
    let text = matches.get_one::<String>("seeds").map_or("", String::as_str);
    let seeds = seeds_of(text)
        .ok_or_else(|| format!("--seeds {text}: expected A..B with A below B, or one seed"))?;
    let plant: Option<Plant> = matches.get_one::<String>("plant").map(|s| s.parse()).transpose()?;
    if let Some(plant) = plant.filter(|plant| plant.needs_feature() && !cfg!(feature = "planted")) {
        return Err(format!(
            "--plant {plant}: this bug is not in this build; build with --features planted"
        ));
    }
    let trace = matches.get_flag("trace");
    let limit = matches.get_one::<u64>("seconds").map(|seconds| Duration::from_secs(*seconds));
    let is_open = limit.is_some()
        && matches.value_source("seeds") == Some(clap::parser::ValueSource::DefaultValue);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = matches.get_one::<u64>("threads").map_or(cores, |threads| *threads as usize);
    Ok(Sweep {
        seeds: if is_open { 0..u64::MAX } else { seeds },
        plant,
        trace,
        limit,
        threads: if trace { 1 } else { threads },
    })
}

fn seeds_of(text: &str) -> Option<Range<u64>> {
    let range = match text.split_once("..") {
        Some((from, to)) => from.parse().ok()?..to.parse().ok()?,
        None => {
            let seed: u64 = text.parse().ok()?;
            seed..seed.checked_add(1)?
        }
    };
    (!range.is_empty()).then_some(range)
}

impl Sweep {
    /// Runs the seeds and tells how it goes.
    pub fn run(&self) -> Totals {
        let (next, over) = (AtomicU64::new(self.seeds.start), AtomicBool::new(false));
        let totals = Mutex::new(Totals::default());
        let voice = Voice::new(self);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(|| {
                    loop {
                        let is_late = self.limit.is_some_and(|limit| begun.elapsed() >= limit);
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if is_late || seed >= self.seeds.end || over.load(Ordering::Relaxed) {
                            return;
                        }
                        let outcome = run(seed, self.plant, self.trace);
                        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                        totals.add(&outcome);
                        if totals.violations.len() >= VIOLATIONS_MAX {
                            over.store(true, Ordering::Relaxed);
                        }
                        voice.tell(&outcome, self, &totals, begun.elapsed());
                    }
                });
            }
        });
        voice.finish();
        totals.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells how a sweep goes: a bar on a terminal, else a line now and then.
struct Voice {
    bar: Option<ProgressBar>,
    next_line: Mutex<Duration>,
}

impl Voice {
    fn new(sweep: &Sweep) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let length = match sweep.limit {
                Some(limit) => limit.as_secs(),
                None => sweep.seeds.end - sweep.seeds.start,
            };
            let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:30} {percent:>3}%  {msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Voice { bar, next_line: Mutex::new(LINE_INTERVAL) }
    }

    fn tell(&self, outcome: &Outcome, sweep: &Sweep, totals: &Totals, elapsed: Duration) {
        if sweep.trace {
            self.line(&format!("seed {}", outcome.seed));
            outcome.trace.iter().for_each(|line| self.line(line));
            self.line(&format!("hash {:016x}", outcome.hash));
        }
        if let Some(what) = &outcome.violation {
            self.line(&format!("seed {}: {what}", outcome.seed));
            self.line(&format!("replay with: {}", replay(outcome.seed, sweep)));
        }
        let text = format!(
            "{} seeds, {:.0}/s, {} violations",
            totals.seeds,
            totals.seeds as f64 / elapsed.as_secs_f64().max(1e-9),
            totals.violations.len()
        );
        if let Some(bar) = &self.bar {
            bar.set_position(match sweep.limit {
                Some(_) => elapsed.as_secs(),
                None => totals.seeds,
            });
            bar.set_message(text);
            return;
        }
        let mut next = self.next_line.lock().unwrap_or_else(PoisonError::into_inner);
        if elapsed >= *next {
            *next = elapsed + LINE_INTERVAL;
            eprintln!("{:>6.0} s  {text}", elapsed.as_secs_f64());
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{text}")),
            None => println!("{text}"),
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The one command that runs a seed again and tells all of it.
pub fn replay(seed: u64, sweep: &Sweep) -> String {
    let plant = sweep.plant.map_or(String::new(), |plant| format!(" --plant {plant}"));
    let feature = match sweep.plant {
        Some(plant) if plant.needs_feature() => " --features planted",
        _ => "",
    };
    format!("cargo run --release -p ringfence-simulator{feature} -- --seeds {seed}{plant} --trace")
}

fn summary(totals: &Totals, sweep: &Sweep, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let mut text = format!(
        "{} seeds in {seconds:.1} s, {:.1} seeds/s, {:.1} simulated hours, {} events, {} views, \
         {} recoveries\n",
        totals.seeds,
        totals.seeds as f64 / seconds,
        totals.simulated_us as f64 / 3.6e9,
        totals.events,
        totals.views,
        totals.recoveries,
    );
    let [joined, moved] = totals.comebacks;
    text +=
        &format!("{joined} processes were taken in, and {moved} planned views moved partitions\n");
    let [finished, lost, nobody] = totals.endings;
    text += &format!(
        "{finished} jobs finished with exact output, {lost} stopped because all holders of a \
         partition were gone, {nobody} had nobody left; {} releases came again\n",
        totals.repeated_releases
    );
    text += &format!("{:<34} {:>10} {:>14}\n", "fault", "fired", "in a recovery");
    for (fault, name) in FAULTS {
        let (fired, during) = totals.faults.of(*fault);
        text += &format!("{name:<34} {fired:>10} {during:>14}\n");
    }
    text += &format!("{} violations\n", totals.violations.len());
    for (seed, what) in &totals.violations {
        text += &format!("  seed {seed}: {what}\n    {}\n", replay(*seed, sweep));
    }
    text
}
