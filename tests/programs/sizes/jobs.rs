//! The jobs of `sizes.rs`: each does something large, as its variables say.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringfence::operators::verbs::sink::Release;
use ringfence::prelude::*;
use ringfence::{Config, Error};
use timely::dataflow::ProbeHandle;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::vec::Map;

use crate::support::own::Job;

pub(crate) const KEYS: u64 = 1_000;

/// A number that a test gives to its job.
fn var(name: &str) -> u64 {
    let value = std::env::var(name).unwrap_or_else(|_| panic!("{name} is set"));
    value.parse().unwrap_or_else(|_| panic!("{name}={value} is a number"))
}

/// The numbers below `N`, over all shares, with a pause of `US` microseconds before each.
fn numbers() -> impl Source<Item = u64> {
    let (count, pause) = (var("N"), Duration::from_micros(var("US")));
    per_share(move |share| {
        (0..count).filter(move |n| n % share.count == share.index).inspect(move |_| {
            if pause > Duration::ZERO {
                std::thread::sleep(pause);
            }
        })
    })
}

/// True once over all processes and generations.
fn once(place: &Path) -> bool {
    OpenOptions::new().write(true).create_new(true).open(place.join("once")).is_ok()
}

pub(crate) fn out(place: &Path) -> PathBuf {
    place.join("out")
}

/// Counts the numbers by key; once, or always, the count of number 500 panics with a long message.
fn panics(place: &Path, config: Config) -> Result<(), Error> {
    let place = place.to_owned();
    let (size, always) = (var("SIZE") as usize, var("ALWAYS") == 1);
    ringfence::execute(config, move |worker| {
        let place = place.clone();
        let directory = out(&place);
        worker.dataflow::<u64, _, _>(|scope| {
            numbers()
                .to_stream_fenced(scope, "numbers")
                .map(move |n| (n, if n == 500 { "r".repeat(size) } else { String::new() }))
                .fold_fenced(
                    "counts",
                    |(n, _)| n % KEYS,
                    0u64,
                    move |count, (n, _), out| {
                        if n == 500 && (always || once(&place)) {
                            panic!("{}", "x".repeat(size));
                        }
                        *count += 1;
                        out.give((n % KEYS, *count));
                    },
                )
                .sink_fenced("out", LineFiles::new(directory));
        });
    })
    .map(drop)
}

/// Sums up the lengths of texts of `SIZE` bytes by key; each process tells how much memory it took.
fn documents(place: &Path, config: Config) -> Result<(), Error> {
    let (directory, size) = (out(place), var("SIZE") as usize);
    let done = ringfence::execute(config, move |worker| {
        let directory = directory.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            let documents = numbers()
                .to_stream_fenced(scope, "numbers")
                .map(move |n| (n % KEYS, "d".repeat(size)));
            documents
                .fold_fenced(
                    "lengths",
                    |(key, _)| *key,
                    0u64,
                    |sum, (key, text), out| {
                        *sum += text.len() as u64;
                        out.give((key, *sum));
                    },
                )
                .sink_fenced("out", LineFiles::new(directory));
        });
    });
    let peak = place.join(format!("peak-{}", std::process::id()));
    fs::write(peak, peak_bytes().to_string()).unwrap();
    done.map(drop)
}

/// The most memory that this process ever had, where the system tells.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
    kilobytes.unwrap_or(0u64) << 10
}

/// The key of number 20 gets a value of `SIZE` bytes.
fn state(place: &Path, config: Config) -> Result<(), Error> {
    let (directory, size) = (out(place), var("SIZE") as usize);
    ringfence::execute(config, move |worker| {
        let directory = directory.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            numbers()
                .to_stream_fenced(scope, "numbers")
                .fold_fenced(
                    "texts",
                    |n| n % KEYS,
                    String::new(),
                    move |text, n, out| {
                        if n == 20 {
                            *text = "z".repeat(size);
                        }
                        out.give((n, text.len() as u64));
                    },
                )
                .sink_fenced("out", LineFiles::new(directory));
        });
    })
    .map(drop)
}

/// All numbers have one key, whose list grows by a text of `SIZE` bytes with each.
fn hot_key(place: &Path, config: Config) -> Result<(), Error> {
    let (directory, size) = (out(place), var("SIZE") as usize);
    ringfence::execute(config, move |worker| {
        let directory = directory.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            numbers()
                .to_stream_fenced(scope, "numbers")
                .fold_fenced(
                    "list",
                    |_| 0u8,
                    Vec::<String>::new(),
                    move |list, _, out| {
                        list.push("x".repeat(size));
                        out.give(list.len() as u64);
                    },
                )
                .sink_fenced("out", LineFiles::new(directory));
        });
    })
    .map(drop)
}

/// Number 20, or every number where `EACH` is 1, becomes a text of `SIZE` bytes, which travels, is kept as
/// a result and is written as a line.
fn record(place: &Path, config: Config) -> Result<(), Error> {
    let (directory, size, each) = (out(place), var("SIZE") as usize, var("EACH") == 1);
    ringfence::execute(config, move |worker| {
        let directory = directory.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            numbers()
                .to_stream_fenced(scope, "numbers")
                .map(move |n| (n, if n == 20 || each { "y".repeat(size) } else { String::new() }))
                .fold_fenced(
                    "texts",
                    |(n, _)| n % KEYS,
                    0u64,
                    |count, (n, text), out| {
                        *count += 1;
                        out.give((n, text));
                    },
                )
                .sink_fenced("out", LineFiles::new(directory));
        });
    })
    .map(drop)
}

/// The program feeds the numbers below `N`, each share its own, and with number 20 a text of `SIZE` bytes.
fn fed(place: &Path, config: Config) -> Result<(), Error> {
    let (directory, size) = (out(place), var("SIZE") as usize);
    let (count, pause) = (var("N"), Duration::from_micros(var("US")));
    ringfence::execute(config, move |worker| {
        let mut input = FencedInput::<u64, (u64, String)>::new("numbers");
        let probe = ProbeHandle::new();
        worker.dataflow(|scope| {
            input
                .to_stream(scope)
                .map(|(n, text)| (n, text.len() as u64))
                .probe_with(&probe)
                .sink_fenced("out", LineFiles::new(&directory));
        });
        for n in input.resume()..count {
            for share in input.shares() {
                if n % share.count == share.index {
                    let text = if n == 20 { "f".repeat(size) } else { String::new() };
                    input.send_to(share.index, (n, text));
                }
            }
            input.advance_to(n + 1);
            while probe.less_than(input.time()) {
                worker.step();
            }
            std::thread::sleep(pause);
        }
    })
    .map(drop)
}

/// A wrapped operator keeps the text of `SIZE` bytes that comes with number 20 in states of each kind.
fn wrapped(place: &Path, config: Config) -> Result<(), Error> {
    let (directory, size) = (out(place), var("SIZE") as usize);
    ringfence::execute(config, move |worker| {
        let directory = directory.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            numbers()
                .to_stream_fenced(scope, "numbers")
                .unary_fenced(Exchange::new(|_: &u64| 0), "texts", move |_, state| {
                    let mut value = state.value("value", String::new());
                    let mut list = state.list::<String>("list");
                    let mut map = state.map::<u64, String>("map");
                    move |input, output| {
                        input.for_each(|capability, numbers| {
                            for n in numbers.drain(..) {
                                if n == 20 {
                                    *value.get_mut() = "v".repeat(size);
                                    list.push("l".repeat(size));
                                    map.insert(n, "m".repeat(size));
                                }
                                let list = list.get(0).map_or(0, |text| text.len());
                                let map = map.get(&20).map_or(0, |text| text.len());
                                let kept = value.get().len() + list + map;
                                output.session(&capability).give((n, kept as u64));
                            }
                        });
                    }
                })
                .sink_fenced("out", LineFiles::new(directory));
        });
    })
    .map(drop)
}

/// A collection of the numbers below `N` and, of number 20, a text of `SIZE` bytes, counted by text.
fn collection(place: &Path, config: Config) -> Result<(), Error> {
    let (directory, size) = (out(place), var("SIZE") as usize);
    let (count, pause) = (var("N"), Duration::from_micros(var("US")));
    ringfence::execute(config, move |worker| {
        let mut texts = FencedSession::<u64, String, isize>::new("texts");
        let probe = ProbeHandle::new();
        worker.dataflow::<u64, _, _>(|scope| {
            texts
                .to_collection(scope)
                .count_fenced("counts")
                .map(|(text, count)| (text.len() as u64, count as u64))
                .probe_with(&probe)
                .sink_fenced("out", LineFiles::new(&directory));
        });
        for n in texts.resume()..count {
            let text = if n % 20 == 0 { "c".repeat(size) } else { "d".repeat(n as usize % 20) };
            texts.update_to(n % texts.share_count(), text, 1);
            texts.advance_to(n + 1);
            texts.flush();
            while probe.less_than(texts.time()) {
                worker.step();
            }
            std::thread::sleep(pause);
        }
    })
    .map(drop)
}

/// Fails in many words: the source where `WHERE` is 0, the sink where it is 1; where it is 2, an operator
/// has a long name instead.
fn wordy(place: &Path, config: Config) -> Result<(), Error> {
    let (directory, size, place) = (out(place), var("SIZE") as usize, var("WHERE"));
    ringfence::execute(config, move |worker| {
        let sink = Wordy { words: if place == 1 { "s".repeat(size) } else { String::new() } };
        let directory = directory.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            let numbers = if place == 0 {
                Wordy { words: "s".repeat(size) }.to_stream_fenced(scope, "numbers")
            } else {
                numbers().to_stream_fenced(scope, "numbers")
            };
            let name = if place == 2 { "n".repeat(size) } else { "counts".to_owned() };
            let counts = numbers.fold_fenced(
                &name,
                |n| n % KEYS,
                0u64,
                |count, n, out| {
                    *count += 1;
                    out.give((n % KEYS, *count));
                },
            );
            counts.clone().sink_fenced("wordy", sink);
            counts.sink_fenced("out", LineFiles::new(directory));
        });
    })
    .map(drop)
}

/// A source and a sink whose errors have many words.
struct Wordy {
    words: String,
}

impl Source for Wordy {
    type Item = u64;
    type Position = u64;
    type Reader = Wordy;

    fn shards(&self, share_count: u32) -> io::Result<Vec<String>> {
        Ok((0..share_count).map(|share| share.to_string()).collect())
    }

    fn open(&self, _shard: &str, _at: Option<&u64>) -> io::Result<Wordy> {
        Ok(Wordy { words: self.words.clone() })
    }
}

impl Reader for Wordy {
    type Item = u64;
    type Position = u64;

    fn read(&mut self, _batch: &mut Vec<u64>) -> io::Result<bool> {
        Err(io::Error::other(self.words.clone()))
    }

    fn position(&self) -> u64 {
        0
    }
}

impl Sink<(u64, u64)> for Wordy {
    type Position = u64;

    fn prepare(&mut self, _at: &mut u64, _rows: &[(u64, u64)]) -> io::Result<Vec<u8>> {
        if self.words.is_empty() {
            Ok(Vec::new())
        } else {
            Err(io::Error::other(self.words.clone()))
        }
    }

    fn release(&mut self, _id: &Release, _prepared: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) const JOBS: &[(&str, Job)] = &[
    ("panics", panics),
    ("documents", documents),
    ("state", state),
    ("hot_key", hot_key),
    ("record", record),
    ("fed", fed),
    ("wrapped", wrapped),
    ("collection", collection),
    ("wordy", wordy),
];
