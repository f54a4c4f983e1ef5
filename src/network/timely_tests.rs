//! Timely over links: two processes' worth of workers in this one, with and without a cut.

use std::any::Any;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ringfence_operators::ids::NodeId;
use timely::WorkerConfig;
use timely::communication::allocator::ProcessBuilder;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::{Allocator, Hooks};
use timely::dataflow::operators::{Exchange, Input, Inspect, Probe};
use timely::worker::Worker;

use super::frame::LossReason;
use super::link_tests::socket_pair;
use super::*;

/// The worker threads of each process.
const THREADS: usize = 2;

/// What one process saw.
struct Outcome {
    losses: Vec<LinkLoss>,
    received: u64,
    sent_bytes: u64,
}

/// Shared by the workers of one process and its callback.
#[derive(Default)]
struct Process {
    abort: AtomicBool,
    received: AtomicU64,
    losses: Mutex<Vec<LinkLoss>>,
}

/// Feeds `rounds` epochs and runs until all are through, or until told to abort.
fn run_worker(worker: &mut Worker, rounds: u64, process: &Arc<Process>, progress: &AtomicU64) {
    let (mut input, probe) = worker.dataflow::<u64, _, _>(|scope| {
        let (input, stream) = scope.new_input::<Vec<(u64, String)>>();
        let process = Arc::clone(process);
        let (probe, _) = stream
            .exchange(|record| record.0)
            .inspect(move |_| {
                process.received.fetch_add(1, Ordering::Relaxed);
            })
            .probe();
        (input, probe)
    });
    let aborted = || process.abort.load(Ordering::SeqCst);
    for round in 0..rounds {
        if aborted() {
            break;
        }
        for key in 0..100 {
            // Some frames are larger than what timely reads at once.
            let repeat = if key == 0 && round % 8 == 7 { 50_000 } else { 1 };
            input.send((key, "some text that makes the record longer".repeat(repeat)));
        }
        input.advance_to(round + 1);
        while probe.less_than(input.time()) && !aborted() {
            worker.step_or_park(Some(Duration::from_millis(1)));
        }
        progress.fetch_max(round, Ordering::Relaxed);
    }
    drop(input);
    if !aborted() {
        while worker.step() && !aborted() {}
    }
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
}

/// Runs one process as a generation is run: a loss aborts its workers, and all threads are joined.
fn run_process(index: usize, stream: TcpStream, rounds: u64, progress: Arc<AtomicU64>) -> Outcome {
    let process = Arc::new(Process::default());
    let workers = |index: usize| index * THREADS..(index + 1) * THREADS;
    let ends = LinkEnds { local_workers: workers(index), remote_workers: workers(1 - index) };
    let link = Link::new(stream, NodeId(1 - index as u64), ends, {
        let process = Arc::clone(&process);
        move |loss| {
            process.losses.lock().unwrap().push(loss);
            process.abort.store(true, Ordering::SeqCst);
        }
    });
    let (traffic, closer) = (link.traffic(), link.closer().unwrap());
    let mut sockets = vec![Some(link), None];
    sockets.rotate_left(if index == 0 { 1 } else { 0 });
    let hooks = Hooks::default();
    let allocators =
        ProcessBuilder::new_typed_vector(THREADS, hooks.refill.clone(), hooks.spill.clone());
    let (builders, guard) =
        initialize_networking_from_sockets(allocators, sockets, index, THREADS, hooks).unwrap();
    let threads: Vec<_> = builders
        .into_iter()
        .map(|builder| {
            let (process, progress) = (Arc::clone(&process), Arc::clone(&progress));
            thread::spawn(move || {
                let allocator = Allocator::Tcp(builder.build());
                let config = WorkerConfig::default();
                let mut worker = Worker::new(config, allocator, Some(Instant::now()));
                run_worker(&mut worker, rounds, &process, &progress);
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    if process.abort.load(Ordering::SeqCst) {
        closer.close_now();
    }
    // Joins the communication threads, and panics if one of them did.
    drop(guard);
    let losses = std::mem::take(&mut *process.losses.lock().unwrap());
    let received = process.received.load(Ordering::Relaxed);
    Outcome { losses, received, sent_bytes: traffic.sent_bytes() }
}

/// Runs both processes, calls `meanwhile` with a handle to the connection, and waits for their ends.
fn run(
    rounds: u64,
    meanwhile: impl FnOnce(&TcpStream, &AtomicU64),
) -> Result<Vec<Outcome>, Box<dyn Any + Send>> {
    let (one, two) = socket_pair();
    let wire = one.try_clone().unwrap();
    let progress = Arc::new(AtomicU64::new(0));
    let (done, ends) = mpsc::channel();
    for (index, stream) in [one, two].into_iter().enumerate() {
        let (done, progress) = (done.clone(), Arc::clone(&progress));
        thread::spawn(move || {
            let outcome = std::panic::catch_unwind(|| run_process(index, stream, rounds, progress));
            let _ = done.send((index, outcome));
        });
    }
    meanwhile(&wire, &progress);
    let limit = Duration::from_secs(20);
    let mut outcomes: Vec<_> =
        (0..2).map(|_| ends.recv_timeout(limit).expect("a process hangs")).collect();
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

#[test]
fn an_undisturbed_dataflow_loses_nothing_and_reports_nothing() {
    let rounds = 50;
    let outcomes = run(rounds, |_, _| ()).unwrap();
    let received: u64 = outcomes.iter().map(|outcome| outcome.received).sum();
    assert_eq!(received, rounds * 100 * 2 * THREADS as u64);
    for outcome in outcomes {
        assert_eq!(outcome.losses, []);
        assert!(outcome.sent_bytes > 0);
    }
}

#[test]
fn a_cut_in_the_middle_ends_all_threads_without_a_panic() {
    for round in 0..10 {
        let outcomes = run(u64::MAX, |wire, progress| {
            let cut_at = round * 3;
            while progress.load(Ordering::Relaxed) < cut_at {
                thread::yield_now();
            }
            wire.shutdown(Shutdown::Both).unwrap();
        });
        for (index, outcome) in outcomes.unwrap().into_iter().enumerate() {
            let [loss] = &outcome.losses[..] else { panic!("{:?}", outcome.losses) };
            assert_eq!(loss.node, NodeId(1 - index as u64));
            assert!(matches!(loss.why, LossReason::EndOfFile { .. } | LossReason::Io { .. }));
        }
    }
}
