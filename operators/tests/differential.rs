//! Differential's collections, protected, against the same without protection.
//!
//! A program of one seed changes its inputs by hand, is interrupted at random moments and goes on with
//! another number of workers. What it releases in all is, for each record and time, what bare
//! differential computes without interruption.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use differential_dataflow::VecCollection;
use differential_dataflow::input::InputSession;
use ringfence_operators::differential::{FencedCollection, FencedSession};
use ringfence_operators::prelude::*;
use ringfence_operators::testing::{Collected, Interruption, Trial};
use timely::dataflow::operators::Probe;

type Edge = (u32, u32);

/// The number of a place in the sequence of a seed: splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
fn random(seed: u64, place: u64) -> u64 {
    let z = seed.wrapping_add((place + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const ROUNDS: u64 = 14;
const NODES: u64 = 12;
const SHARES: u64 = 3;

/// The edge that a share puts in at a round, of several.
fn edge(seed: u64, share: u64, round: u64, index: u64) -> Edge {
    let number = random(seed, (round * SHARES + share) * 64 + index);
    ((number % NODES) as u32, ((number >> 20) % NODES) as u32)
}

/// What a share changes at a round: some edges come, and those of three rounds ago go.
fn changes(seed: u64, share: u64, round: u64) -> Vec<(Edge, isize)> {
    let count = random(seed, 7_777 + round) % 5;
    let mut changes: Vec<_> =
        (0..count).map(|index| (edge(seed, share, round, index), 1)).collect();
    if let Some(before) = round.checked_sub(3) {
        let count = random(seed, 7_777 + before) % 5;
        changes.extend((0..count).map(|index| (edge(seed, share, before, index), -1)));
    }
    changes
}

/// All rows, summed up for each record and time.
fn summed<D: Ord>(rows: Vec<(D, u64, isize)>) -> BTreeMap<(D, u64), isize> {
    let mut sums = BTreeMap::new();
    for (data, time, diff) in rows {
        *sums.entry((data, time)).or_default() += diff;
    }
    sums.retain(|_, diff| *diff != 0);
    sums
}

/// What bare differential makes of the changes of a seed.
fn bare<D, F>(seed: u64, job: F) -> BTreeMap<(D, u64), isize>
where
    D: differential_dataflow::Data + Send,
    F: for<'scope> Fn(
            VecCollection<'scope, u64, Edge, isize>,
        ) -> VecCollection<'scope, u64, D, isize>
        + Send
        + Sync
        + 'static,
{
    let rows = timely::execute_directly(move |worker| {
        let mut input = InputSession::<u64, Edge, isize>::new();
        let (probe, rows) = worker.dataflow(|scope| {
            use timely::dataflow::operators::capture::Capture;
            let (probe, stream) = job(input.to_collection(scope)).inner.probe();
            (probe, stream.capture())
        });
        for round in 0..ROUNDS {
            for (edge, diff) in (0..SHARES).flat_map(|share| changes(seed, share, round)) {
                input.update(edge, diff);
            }
            input.advance_to(round + 1);
            input.flush();
            worker.step_while(|| probe.less_than(&(round + 1)));
        }
        input.close();
        while worker.step() {}
        rows
    });
    use timely::dataflow::operators::capture::Extract;
    summed(rows.extract().into_iter().flat_map(|(_, rows)| rows).collect())
}

/// What the protected form makes of them, interrupted again and again.
fn fenced<D, F>(seed: u64, interruptions: u64, job: F) -> BTreeMap<(D, u64), isize>
where
    D: Data + Ord + Debug,
    F: for<'scope> Fn(
            FencedCollection<'scope, u64, Edge, isize>,
            Collected<(D, u64, isize)>,
        ) -> timely::dataflow::StreamVec<'scope, u64, ()>
        + Send
        + Sync
        + 'static,
{
    let stops: Vec<_> = (0..interruptions)
        .map(|stop| {
            let number = random(seed, 99_000 + stop);
            let kind = match number % 3 {
                0 => Interruption::Panic,
                _ => Interruption::Stop,
            };
            (Duration::from_micros(2_000 + (number >> 8) % 14_000), kind)
        })
        .collect();
    let rows = Trial::new(SHARES as usize).run_interrupted(&stops, move |worker, output| {
        let mut input = FencedSession::<u64, Edge>::new("edges");
        let probe = worker.dataflow(|scope| {
            let edges = input.to_collection(scope);
            let (probe, edges) = edges.probe();
            job(edges, output);
            probe
        });
        for round in input.resume()..ROUNDS {
            for share in input.shares() {
                for (edge, diff) in changes(seed, share.index, round) {
                    input.update_to(share.index, edge, diff);
                }
            }
            input.advance_to(round + 1);
            while probe.less_than(input.time()) {
                worker.step();
            }
            std::thread::sleep(Duration::from_micros(random(seed, 50_000 + round) % 900));
        }
    });
    summed(rows)
}

/// Compares both forms for some seeds.
macro_rules! equal {
    ($name:ident, $long:ident, $bare:expr, $fenced:expr) => {
        fn $name(seed: u64) {
            let expected = bare(seed, $bare);
            let actual = fenced(seed, 1 + seed % 4, $fenced);
            assert_eq!(actual, expected, "seed {seed}");
        }

        mod $long {
            #[test]
            fn briefly() {
                (0..12).for_each(super::$name);
            }

            /// Some 300 restores.
            #[test]
            #[ignore = "some minutes"]
            fn long() {
                (0..120).for_each(super::$name);
            }
        }
    };
}

equal!(
    degrees,
    restored_counts,
    |edges| edges.map(|(from, _)| from).count().map(|(node, count)| (node, count as i64)),
    |edges, output| edges
        .map(|(from, _)| from)
        .count_fenced("degrees")
        .map(|(node, count)| (node, count as i64))
        .sink_fenced("out", output)
);

equal!(
    paths,
    restored_joins,
    |edges| edges
        .clone()
        .map(|(from, to)| (to, from))
        .join_map(edges, |via, from, to| (*from, i64::from(via * 100 + to))),
    |edges, output| edges
        .clone()
        .map(|(from, to)| (to, from))
        .join_map_fenced("paths", edges, |via, from, to| (*from, i64::from(via * 100 + to)))
        .sink_fenced("out", output)
);

equal!(
    farthest,
    restored_reductions,
    |edges| edges.reduce(|_, to, out| out.extend(to.last().map(|(to, _)| (i64::from(**to), 1)))),
    |edges, output| edges
        .reduce_fenced("farthest", |_, to, out| {
            out.extend(to.last().map(|(to, _)| (i64::from(**to), 1)));
        })
        .sink_fenced("out", output)
);

equal!(
    reach,
    restored_loops,
    |edges: VecCollection<'_, u64, Edge, isize>| {
        use differential_dataflow::operators::iterate::Iterate;
        let roots = edges.clone().filter(|(from, _)| *from < 2).map(|(from, _)| from).distinct();
        roots
            .iterate(|scope, reached| {
                let edges = edges.enter(scope);
                let next = edges.semijoin(reached.clone()).map(|(_, to)| to);
                next.concat(reached).distinct()
            })
            .map(|node| (node, 0))
    },
    |edges: FencedCollection<'_, u64, Edge, isize>, output: Collected<_>| {
        let roots = edges.clone().filter(|(from, _)| *from < 2).map(|(from, _)| from);
        roots
            .distinct_fenced("roots")
            .iterate(|scope, reached| {
                let edges = edges.enter(scope);
                let next = edges.semijoin_fenced("step", reached.clone()).map(|(_, to)| to);
                next.concat(reached).distinct_fenced("reached")
            })
            .map(|node| (node, 0))
            .sink_fenced("out", output)
    }
);

equal!(
    hydrated,
    hydrated_edges,
    |edges: VecCollection<'_, u64, Edge, isize>| {
        use differential_dataflow::operators::iterate::Iterate;
        let roots = edges.clone().filter(|(from, _)| *from < 2).map(|(from, _)| from).distinct();
        roots
            .iterate(|scope, reached| {
                let edges = edges.enter(scope);
                let next = edges.semijoin(reached.clone()).map(|(_, to)| to);
                next.concat(reached).distinct()
            })
            .count()
            .map(|(node, count)| (node, count as i64))
    },
    |edges: FencedCollection<'_, u64, Edge, isize>, output: Collected<_>| {
        let edges = edges.fenced("edges seen");
        let roots = edges.clone().filter(|(from, _)| *from < 2).map(|(from, _)| from).distinct();
        roots
            .iterate(|scope, reached| {
                let edges = edges.enter(scope);
                let next = edges.semijoin(reached.clone()).map(|(_, to)| to);
                next.concat(reached).distinct()
            })
            .count()
            .map(|(node, count)| (node, count as i64))
            .sink_fenced("out", output)
    }
);

equal!(
    mixed,
    both_ways,
    |edges: VecCollection<'_, u64, Edge, isize>| {
        let degrees = edges.clone().map(|(from, _)| from).count();
        edges.join_map(degrees, |_from, to, degree| (*to, *degree as i64)).consolidate()
    },
    |edges: FencedCollection<'_, u64, Edge, isize>, output: Collected<_>| {
        let degrees = edges.clone().map(|(from, _)| from).fenced("sources").count().into_fenced();
        edges
            .join_map_fenced("joined", degrees, |_from, to, degree| (*to, *degree as i64))
            .consolidate()
            .sink_fenced("out", output)
    }
);

equal!(
    parities,
    restored_chains,
    |edges: VecCollection<'_, u64, Edge, isize>| {
        let degrees = edges.clone().map(|(from, _)| from).count();
        let of_degrees = degrees.map(|(_, degree)| (degree as u32 % 2, 1)).map(|(odd, _)| odd);
        let farthest = edges.reduce(|_, to, out| {
            out.extend(to.last().map(|(to, often)| ((**to, *often as i64), 1)));
        });
        let few = farthest.reduce(|_, farthest, out| {
            let (to, often) = farthest[0].0;
            if *often < 2 {
                out.push((i64::from(*to), 1));
            }
        });
        of_degrees.count().map(|(odd, count)| (odd, count as i64)).concat(few)
    },
    |edges: FencedCollection<'_, u64, Edge, isize>, output: Collected<_>| {
        // Outputs of reductions are read by others, and by joins' like as_collection.
        let by_from = edges.clone().arrange_by_key_fenced("edges by from");
        let degrees = edges.map(|(from, _)| from).count_fenced("degrees");
        let of_degrees = degrees.map(|(_, degree)| degree as u32 % 2).count_fenced("parities");
        let farthest = by_from.reduce_fenced("farthest", |_, to: &[(&u32, isize)], out| {
            out.extend(to.last().map(|(to, often)| ((**to, *often as i64), 1isize)));
        });
        let few = farthest.reduce_fenced("few", |_, farthest: &[(&(u32, i64), isize)], out| {
            let (to, often) = farthest[0].0;
            if *often < 2 {
                out.push((i64::from(*to), 1isize));
            }
        });
        let few = few.as_collection(|from: &u32, to: &i64| (*from, *to));
        of_degrees.map(|(odd, count)| (odd, count as i64)).concat(few).sink_fenced("out", output)
    }
);

equal!(
    turns,
    restored_variables,
    |edges: VecCollection<'_, u64, Edge, isize>| {
        use differential_dataflow::operators::iterate::Variable;
        use timely::order::Product;
        let scope = edges.inner.scope();
        let roots = edges.clone().filter(|(from, _)| *from < 2).map(|(from, _)| from).distinct();
        let odd = scope.iterative::<u64, _, _>(|nested| {
            let edges = edges.enter(nested);
            let step = || Product::new(Default::default(), 1);
            let (even_next, even) = Variable::new_from(roots.enter(nested), step());
            let (odd_next, odd) = Variable::new(nested, step());
            odd_next.set(edges.clone().semijoin(even.clone()).map(|(_, to)| to).distinct());
            let back = edges.semijoin(odd.clone()).map(|(_, to)| to);
            even_next.set(even.concat(back).distinct());
            odd.leave(scope)
        });
        odd.map(|node| (node, 0)).consolidate()
    },
    |edges: FencedCollection<'_, u64, Edge, isize>, output: Collected<_>| {
        let scope = edges.scope();
        let roots = edges.clone().filter(|(from, _)| *from < 2).map(|(from, _)| from);
        let roots = roots.distinct_fenced("roots");
        let odd = scope.iterative::<u64, _, _>(|nested| {
            let edges = edges.enter(nested);
            let (even_next, even) = FencedVariable::new_from(roots.enter(nested));
            let (odd_next, odd) = FencedVariable::new(nested);
            let step = edges.clone().semijoin_fenced("from even", even.clone());
            odd_next.set(step.map(|(_, to)| to).distinct_fenced("odd"));
            let back = edges.semijoin_fenced("from odd", odd.clone()).map(|(_, to)| to);
            even_next.set(even.concat(back).distinct_fenced("even"));
            odd.leave(scope)
        });
        odd.map(|node| (node, 0)).consolidate().sink_fenced("out", output)
    }
);

/// A time of an inner scope that is no `Product`: of two halves of a moment, the second sees the first. With
/// it a join can tell what has changed from what there is, as in `AltNeu` of differential's `dogsdogsdogs`.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
struct Half {
    time: u64,
    is_second: bool,
}

impl timely::PartialOrder for Half {
    fn less_equal(&self, other: &Self) -> bool {
        self <= other
    }
}

impl timely::progress::PathSummary<Half> for u64 {
    fn results_in(&self, half: &Half) -> Option<Half> {
        Some(Half { time: half.time.checked_add(*self)?, ..*half })
    }

    fn followed_by(&self, other: &Self) -> Option<Self> {
        self.checked_add(*other)
    }
}

impl timely::progress::Timestamp for Half {
    type Summary = u64;

    fn minimum() -> Self {
        Half::default()
    }
}

impl timely::progress::timestamp::Refines<u64> for Half {
    fn to_inner(time: u64) -> Self {
        Half { time, is_second: false }
    }

    fn to_outer(self) -> u64 {
        self.time
    }

    fn summarize(path: u64) -> u64 {
        path
    }
}

impl differential_dataflow::lattice::Lattice for Half {
    fn join(&self, other: &Self) -> Self {
        *self.max(other)
    }

    fn meet(&self, other: &Self) -> Self {
        *self.min(other)
    }
}

impl FencedTime for Half {
    type Outer = u64;

    const NESTED: bool = true;

    fn outer(&self) -> u64 {
        self.time
    }

    fn from_outer(time: u64) -> Self {
        Half { time, is_second: false }
    }
}

equal!(
    halves,
    times_of_their_own,
    |edges: VecCollection<'_, u64, Edge, isize>| edges
        .clone()
        .map(|(from, to)| (to, from))
        .join_map(edges, |_via, from, to| (*from, *to))
        .reduce(|_, to, out| out.extend(to.last().map(|(to, _)| (i64::from(**to), 1)))),
    |edges: FencedCollection<'_, u64, Edge, isize>, output: Collected<_>| {
        use ringfence_operators::differential::AsCollectionFenced;
        use timely::dataflow::operators::vec::Map;
        let outer = edges.scope();
        let farthest = outer.scoped::<Half, _, _>("halves", |inner| {
            let first = edges.enter(inner);
            let later = |(edge, time, diff): (Edge, Half, isize)| {
                (edge, Half { is_second: true, ..time }, diff)
            };
            let second = first.clone().into_stream().map(later).as_collection_fenced();
            first
                .map(|(from, to)| (to, from))
                .join_map_fenced("paths", second, |_via, from, to| (*from, *to))
                .reduce_fenced("farthest", |_, to, out| {
                    out.extend(to.last().map(|(to, _)| (i64::from(**to), 1isize)));
                })
                .leave(outer)
        });
        farthest.consolidate().sink_fenced("out", output)
    }
);
