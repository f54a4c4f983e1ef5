//! What does protection cost the queries of NEXMark while nothing fails?
//!
//! Each query in its two forms, `examples/nexmark_bare.rs` on bare timely and `examples/nexmark.rs`, at one
//! process and at three of this machine, with one worker each. The forms run in turn, in rounds; the figure
//! is events per second of the whole run, from when a process opens its share to its end, of the last
//! process: the writing of all results and the last commit are in it, and the start of the cluster is
//! not, since timely's own takes a second or two where processes wait for each other. The ratio is formed
//! within a round. Held fixed: the same events from the same generator, which is part of both runs; a
//! checkpoint each second, epochs of 100 ms, one backup (in one process that is its own vault). Both
//! forms must write the same lines.
//!
//! The processor's time of all processes is told besides, where the system tells it, without that of a run
//! with one event: there the ratio is what an event costs in bare form to what it costs protected, which
//! depends less on what else the machine does, and not on waiting. How fast the generator is alone tells
//! how much of it making the events is.
//!
//! ```text
//! cargo bench --bench nexmark [-- --quick] [-- --rounds N] [-- --query N]
//! ```

// Both examples have their own copy of what examples share.
#![allow(clippy::duplicate_mod, reason = "each example is compiled as it stands")]

#[allow(
    dead_code,
    unused_imports,
    reason = "neither the examples' own start nor their tests are needed"
)]
#[path = "../examples/nexmark_bare.rs"]
mod bare;
#[allow(
    dead_code,
    unused_imports,
    reason = "neither the examples' own start nor their tests are needed"
)]
#[path = "../examples/nexmark.rs"]
mod protected;
mod support;

use std::error::Error;
use std::hint::black_box;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ::nexmark::EventGenerator;
use ::nexmark::config::NexmarkConfig;
use ringfence::operators::hash::KeyHasher;
use support::{Spread, has, write_json};

/// In which form a process of the bench is to run its query.
const FORM_VARIABLE: &str = "RINGFENCE_BENCH_NEXMARK";

/// Where each process of a run writes how many seconds it took.
const TIMES_VARIABLE: &str = "RINGFENCE_BENCH_NEXMARK_TIMES";

/// How many events make a run of some seconds.
const EVENTS: u64 = 3_000_000;

/// How long processes of bare timely may take to find each other: they try again each second.
const MEETING: Duration = Duration::from_millis(2_500);

const PROCESSES: [u64; 2] = [1, 3];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Bare,
    Protected,
}

/// One run of one form.
#[derive(Clone, Copy, Debug)]
struct Run {
    form: Form,
    query: u64,
    processes: u64,
    events: u64,
}

/// What a run wrote: how many lines, and a sum of their hashes.
type Written = (u64, u64);

/// What a run took, in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    elapsed: f64,
    /// Of the processor, by all processes together.
    busy: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    if let Ok(form) = std::env::var(FORM_VARIABLE) {
        return execute(&form);
    }
    // `cargo test` starts benches too, without this flag; there it is enough that they start.
    if !has("--bench") {
        return Ok(());
    }
    let quick = has("--quick");
    let number = |flag: &str| -> Option<u64> {
        std::env::args().skip_while(|arg| arg != flag).nth(1)?.parse().ok()
    };
    let rounds = number("--rounds").unwrap_or(if quick { 3 } else { 5 });
    let queries = number("--query").map_or(1..=8, |query| query..=query);
    let events = if quick { EVENTS / 4 } else { EVENTS };

    println!("the generator alone: {:.2} M events/s", generate(events));
    let starts = PROCESSES.map(|processes| {
        let start = [Form::Bare, Form::Protected].map(|form| {
            let (taken, _) = measure(Run { form, query: 1, processes, events: 1 });
            taken.busy
        });
        let [bare, protected] = start;
        println!(
            "one event, {processes} processes: {bare:.2} s of the processor bare, {protected:.2} s \
             protected"
        );
        start
    });
    println!(
        "\n{rounds} rounds; median (min to max) of M events/s, of µs of the processor an event, and of \
         the ratios in a round\n"
    );
    println!(
        "| query | processes | bare, M/s | protected, M/s | ratio | bare, µs | protected, µs | ratio |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut figures = Vec::new();
    for query in queries {
        for (processes, starts) in PROCESSES.into_iter().zip(starts) {
            let run = Run { form: Form::Bare, query, processes, events };
            figures.push(compare(run, rounds, starts));
        }
    }
    match write_json("nexmark", &serde_json::json!(figures)) {
        Ok(path) => println!("\nwritten to {}", path.display()),
        Err(error) => eprintln!("cannot write the figures: {error}"),
    }
    Ok(())
}

/// Compares the two forms of a run in rounds, prints a line of the table, and returns the figures.
///
/// What a start of each form takes of the processor counts for nothing.
fn compare(run: Run, rounds: u64, starts: [f64; 2]) -> serde_json::Value {
    let Run { query, processes, events, .. } = run;
    let (mut rates, mut ratios) = ([vec![], vec![]], vec![]);
    let (mut costs, mut cost_ratios) = ([vec![], vec![]], vec![]);
    for round in 0..rounds {
        // Whoever is first finds another machine than who is second: they take turns.
        let mut forms = [Form::Bare, Form::Protected];
        if round % 2 == 1 {
            forms.reverse();
        }
        let mut all = [Taken::default(); 2];
        let written = forms.map(|form| {
            let (taken, written) = measure(Run { form, ..run });
            rates[form as usize].push(events as f64 / taken.elapsed / 1e6);
            all[form as usize] = taken;
            written
        });
        assert_eq!(written[0], written[1], "query {query} writes different lines");
        let [bare, protected] = all;
        ratios.push(bare.elapsed / protected.elapsed);
        let [bare, protected] = [bare.busy - starts[0], protected.busy - starts[1]];
        costs[Form::Bare as usize].push(bare / events as f64 * 1e6);
        costs[Form::Protected as usize].push(protected / events as f64 * 1e6);
        cost_ratios.push(bare / protected);
    }
    let shown = |figures: &[f64]| match Spread::of(figures) {
        Some(Spread { median, min, max, .. }) => format!("{median:.2} ({min:.2} to {max:.2})"),
        None => "-".to_owned(),
    };
    let ([bare, protected], [bare_micros, protected_micros]) = (rates, costs);
    let columns = [&bare, &protected, &ratios, &bare_micros, &protected_micros, &cost_ratios];
    let columns = columns.map(|figures| shown(figures)).join(" | ");
    println!("| {query} | {processes} | {columns} |");
    let json = |figures: &[f64]| Spread::of(figures).map(Spread::to_json);
    serde_json::json!({
        "query": query, "processes": processes, "events": events, "rounds": rounds,
        "bare": json(&bare),
        "protected": json(&protected),
        "ratio": json(&ratios),
        "bare_micros": json(&bare_micros),
        "protected_micros": json(&protected_micros),
        "ratio_of_micros": json(&cost_ratios),
    })
}

/// Runs what the command line asks for, as one process of a run.
fn execute(form: &str) -> Result<(), Box<dyn Error>> {
    let opened = match form {
        "Bare" => bare::run().map(|_job| bare::support::auction::opened())?,
        _ => protected::run().map(|_job| protected::support::auction::opened())?,
    };
    // A launcher opens nothing, nor does a node that has no share: shares are where their partitions are.
    let elapsed = opened.map_or(0.0, |opened| opened.elapsed().as_secs_f64());
    let file = Path::new(&std::env::var(TIMES_VARIABLE)?).join(std::process::id().to_string());
    std::fs::write(file, format!("{elapsed} {}", busy()))?;
    Ok(())
}

/// How many seconds all threads of this process have had a processor; nought where the system does not
/// tell, which makes the ratios no numbers.
fn busy() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // See proc_pid_stat(5): behind the name stand the state, ten more, and both times in hundredths.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Makes events and drops them; returns M events per second.
fn generate(events: u64) -> f64 {
    let begun = Instant::now();
    let config = NexmarkConfig { base_time: 0, ..NexmarkConfig::default() };
    for event in EventGenerator::new(config).take(events as usize) {
        black_box(event);
    }
    events as f64 / begun.elapsed().as_secs_f64() / 1e6
}

/// Runs `run` in processes of its own; returns what it took and what it wrote.
fn measure(run: Run) -> (Taken, Written) {
    let place = tempfile::tempdir().expect("a temporary directory");
    let [out, times] = ["out", "times"].map(|name| place.path().join(name));
    std::fs::create_dir(&times).expect("a directory for the times");
    let own = [
        "--".to_owned(),
        format!("--query={}", run.query),
        format!("--events={}", run.events),
        format!("--out={}", out.display()),
    ];
    // Of bare processes one may be ready a second before another.
    let opens = (run.form == Form::Bare && run.processes > 1).then(|| {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + MEETING;
        at.as_millis().to_string()
    });
    let start = |cluster: &[String]| -> Child {
        Command::new(std::env::current_exe().expect("a bench knows where it is"))
            .args(cluster)
            .args(&own)
            .env(FORM_VARIABLE, format!("{:?}", run.form))
            .env(TIMES_VARIABLE, &times)
            .envs(opens.iter().map(|opens| (bare::support::auction::OPENS_VARIABLE, opens)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a bench can start itself")
    };
    let words = |text: String| text.split(' ').map(str::to_owned).collect::<Vec<String>>();
    let hosts = place.path().join("hosts");
    if run.form == Form::Bare {
        let listeners: Vec<TcpListener> = (0..run.processes)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("there is a free port"))
            .collect();
        let line = |it: &TcpListener| format!("{}\n", it.local_addr().expect("it is bound"));
        let lines: String = listeners.iter().map(line).collect();
        std::fs::write(&hosts, lines).expect("the list of hosts can be written");
    }
    let children: Vec<Child> = match (run.form, run.processes) {
        (Form::Bare, 1) => vec![start(&words("-w 1".to_owned()))],
        (Form::Bare, processes) => {
            let cluster =
                |process| format!("-w 1 -n {processes} -p {process} -h {}", hosts.display());
            (0..processes).map(|process| start(&words(cluster(process)))).collect()
        }
        (Form::Protected, 1) => vec![start(&words("-w 1 --checkpoint-ms 1000".to_owned()))],
        (Form::Protected, processes) => {
            vec![start(&words(format!("--local {processes} --checkpoint-ms 1000")))]
        }
    };
    for mut child in children {
        let status = child.wait().expect("a child can be waited for");
        assert!(status.success(), "{run:?} ended with {status}");
    }
    let mut taken = Taken::default();
    for entry in std::fs::read_dir(&times).expect("the times can be listed") {
        let path = entry.expect("the times can be listed").path();
        let text = std::fs::read_to_string(path).expect("a time can be read");
        let (elapsed, busy) = text.split_once(' ').expect("there are two times");
        taken.elapsed = taken.elapsed.max(elapsed.parse().expect("a time is a number"));
        taken.busy += busy.parse::<f64>().expect("a time is a number");
    }
    assert!(taken.elapsed > 0.0, "no process of {run:?} opened a share");
    (taken, written(&out))
}

/// What is in the files of a directory, whatever the order of the lines.
fn written(directory: &Path) -> Written {
    let (mut count, mut sum) = (0, 0u64);
    // A run without results makes no directory.
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    for path in entries.map(|entry| entry.expect("the output can be listed").path()) {
        let is_hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        if is_hidden || !path.is_file() {
            continue;
        }
        let text = std::fs::read(&path).expect("the output can be read");
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            count += 1;
            sum = sum.wrapping_add(KeyHasher::Rapid.hash(line));
        }
    }
    (count, sum)
}
