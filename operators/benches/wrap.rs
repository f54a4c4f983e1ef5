//! What does it cost that a wrapped operator has a closure for each partition, and not for each worker?
//!
//! A keyed count of u64 keys, in a map, on one worker thread and between two: under plain timely; wrapped, with
//! the same standard map captured and so not protected; wrapped, with a protected map; and the same with
//! 16 partitions of its own. Held fixed: 256 partitions of the job, every epoch of `batch` records is a
//! checkpoint, no failures, all copies in this process.
//!
//! Printed is the processor's time for each record, the least of several runs. Small batches tell what an epoch costs
//! beside its records: 256 closures that see the frontier move, 256 batches where there was one.
//! Run with `cargo bench -p ringfence-operators --bench wrap`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfence_operators::fence::generation::{
    Clock, Gauges, Generation, Notice, Observer, PIECE_BYTES, Routes, Settings,
};
use ringfence_operators::hash::KeyHasher;
use ringfence_operators::ids::ViewNumber;
use ringfence_operators::prelude::*;
use ringfence_operators::vault::{MemoryVault, Role};
use ringfence_operators::worker::{WorkerEnd, run_worker};
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::{Hooks, initialize_from};
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::{Input, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};
use timely::worker::{Config, Worker};

const PARTITIONS: usize = 256;
const KEYS: u64 = 100_000;
const RUNS: usize = 3;

struct Still(Instant);

impl Clock for Still {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

impl Observer for Still {
    fn notice(&self, _notice: Notice) {}
}

#[derive(Clone, Copy)]
enum Form {
    Bare,
    Captured,
    Protected,
    /// Protected, with few partitions of its own.
    Few,
}

/// How long this thread has had a processor, where the system tells: others may be busy on this machine.
fn busy(start: Instant) -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|text| text.split_whitespace().next()?.parse().ok());
    nanos.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

/// Feeds `epochs` batches and waits for each ten of them; returns how long that took.
fn count(worker: &mut Worker, form: Form, epochs: u64, batch: u64) -> Duration {
    let probe = ProbeHandle::new();
    let mut input = InputHandle::new();
    worker.dataflow::<u64, _, _>(|scope| {
        let numbers = scope.input_from(&mut input);
        let by = Exchange::new(|n: &u64| *n);
        let build = || match form {
            Form::Bare => numbers.unary_frontier(by, "count", |_, _| {
                let mut counts = HashMap::<u64, u64>::new();
                move |(input, _frontier), output| {
                    input.for_each(|capability, numbers| {
                        for n in numbers.iter() {
                            *counts.entry(*n).or_default() += 1;
                        }
                        output.session(&capability).give_container(numbers);
                    });
                }
            }),
            Form::Captured => numbers.unary_frontier_fenced(by, "count", |_, _state| {
                let mut counts = HashMap::<u64, u64>::new();
                move |(input, _frontier), output| {
                    input.for_each(|capability, numbers| {
                        for n in numbers.iter() {
                            *counts.entry(*n).or_default() += 1;
                        }
                        output.session(&capability).give_container(numbers);
                    });
                }
            }),
            Form::Protected | Form::Few => {
                numbers.unary_frontier_fenced(by, "count", |_, state| {
                    let mut counts = state.map::<u64, u64>("counts");
                    move |(input, _frontier), output| {
                        input.for_each(|capability, numbers| {
                            for n in numbers.iter() {
                                counts.update(*n, || 0, |count| *count += 1);
                            }
                            output.session(&capability).give_container(numbers);
                        });
                    }
                })
            }
        };
        let counts = match form {
            Form::Few => scope.fence().partitions(16, build),
            _ => build(),
        };
        counts.probe_with(&probe);
        if matches!(form, Form::Bare) {
            // The fence wants something to protect.
            per_share(|_| 0..0_u64).to_stream_fenced(scope, "nothing").fold_fenced(
                "none",
                |n| *n,
                0,
                |_, n: u64, out| out.give(n),
            );
        }
    });
    let start = Instant::now();
    let before = busy(start);
    let mut number = worker.index() as u64;
    for epoch in 0..epochs {
        for _ in 0..batch {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            input.send((number >> 33) % KEYS);
        }
        input.advance_to(epoch + 1);
        if epoch % 10 == 9 {
            worker.step_while(|| probe.less_than(&(epoch - 5)));
        }
    }
    worker.step_while(|| probe.less_than(&epochs));
    let elapsed = busy(start) - before;
    drop(input);
    elapsed
}

fn run(workers: usize, form: Form, epochs: u64, batch: u64) -> f64 {
    let vault = MemoryVault::new(PARTITIONS as u32);
    let everything = |_| Role { owner: true, backup: true };
    vault.install(ViewNumber(1), None, &everything).expect("a first view");
    let routes = Routes {
        owners: (0..PARTITIONS).map(|partition| partition % workers).collect(),
        backups: (0..PARTITIONS).map(|partition| vec![(partition + 1) % workers]).collect(),
        filling: vec![false; PARTITIONS],
    };
    let settings = Settings {
        hasher: KeyHasher::default(),
        epoch_interval: Duration::from_millis(5),
        checkpoint_interval: None,
        in_flight_epochs_max: 4,
        run: "bench".to_owned(),
        workers_per_node: workers,
        share_count: workers as u32,
        refill_bytes_per_second: u64::MAX,
        piece_bytes: PIECE_BYTES,
        durable: None,
    };
    let still = Arc::new(Still(Instant::now()));
    let generation = Arc::new(Generation::new(
        ViewNumber(1),
        None,
        routes,
        settings,
        Arc::new(vault),
        Arc::clone(&still) as Arc<dyn Clock>,
        still,
        Arc::new(Gauges::default()),
    ));
    let builders = ProcessBuilder::new_typed_vector(workers, Hooks::default().refill, None);
    let builders = builders.into_iter().map(AllocatorBuilder::Process).collect();
    let guards = initialize_from(builders, Box::new(()), move |allocator| {
        run_worker(allocator, Config::default(), &generation, |worker| {
            count(worker, form, epochs, batch)
        })
    });
    let mut longest = Duration::ZERO;
    for end in guards.expect("threads").join() {
        match end {
            Ok(WorkerEnd::Finished(elapsed)) => longest = longest.max(elapsed),
            other => panic!("a worker ended with {other:?}"),
        }
    }
    longest.as_nanos() as f64 / (epochs * batch) as f64
}

fn main() {
    println!("ns a record at each worker; in brackets, µs an epoch");
    for workers in [1, 2] {
        for batch in [1, 100, 1_000, 10_000, 100_000_u64] {
            let epochs = (1_000_000 / batch).clamp(20, 1_000);
            print!("{workers} workers, {batch:>6} a batch:");
            for (name, form) in [
                ("bare", Form::Bare),
                ("captured", Form::Captured),
                ("protected", Form::Protected),
                ("of 16", Form::Few),
            ] {
                let times = (0..RUNS).map(|_| run(workers, form, epochs, batch));
                let least = times.fold(f64::INFINITY, f64::min);
                print!("  {name} {least:>8.1} ({:>8.1})", least * batch as f64 / 1e3);
            }
            println!();
        }
    }
}
