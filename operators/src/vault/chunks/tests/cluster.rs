//! Three nodes that store, record, compact and change views in any order: every owner has the sum.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What happens in a cluster.
#[derive(Clone, Debug)]
enum Step {
    /// The owner seals an epoch, with so many chunks, and with so much of what it fills others with.
    Seal {
        updates: Vec<Updates>,
        filling: usize,
    },
    /// A node stores some of what it was sent.
    Store {
        node: usize,
        deltas: usize,
    },
    /// A node notes the latest epoch that all have stored.
    Record {
        node: usize,
    },
    Compact {
        node: usize,
        budget_bytes: usize,
    },
    /// A view: who is to own, if it can, and who is fed.
    View {
        owner: usize,
        fed: Vec<bool>,
    },
}

const NODES: usize = 3;

fn updates() -> impl Strategy<Value = Updates> {
    let short = proptest::collection::vec((0_u64..40, -3_i64..4), 0..20);
    let long = (0_u64..1000, 100_usize..3000, prop_oneof![Just(1_i64), Just(-1)]);
    let long = long.prop_map(|(first, count, diff)| {
        (first..first + count as u64).map(|key| (key, diff)).collect()
    });
    prop_oneof![8 => short, 1 => long]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let seal = (proptest::collection::vec(updates(), 0..4), 0_usize..30);
    let step = prop_oneof![
        8 => seal.prop_map(|(updates, filling)| Step::Seal { updates, filling }),
        8 => (0..NODES, 1_usize..12).prop_map(|(node, deltas)| Step::Store { node, deltas }),
        4 => (0..NODES).prop_map(|node| Step::Record { node }),
        4 => (0..NODES, prop_oneof![Just(1), Just(500), Just(usize::MAX)])
            .prop_map(|(node, budget_bytes)| Step::Compact { node, budget_bytes }),
        1 => (0..NODES, proptest::collection::vec(any::<bool>(), NODES))
            .prop_map(|(owner, fed)| Step::View { owner, fed }),
    ];
    proptest::collection::vec(step, 1..150)
}

/// Three nodes and one partition, and what its state is at each epoch.
struct Cluster {
    nodes: Vec<Node>,
    owner: usize,
    fed: Vec<bool>,
    resume: Option<u64>,
    last: Option<u64>,
    /// The last one that there was when the view began.
    last_opened: Option<u64>,
    next: u64,
    history: Vec<(u64, Updates)>,
    /// What was sealed in this view, and how many of it each node has stored.
    sealed: Vec<(u64, Vec<u8>)>,
    stored: Vec<usize>,
    recorded: Vec<Option<u64>>,
    /// What the owner has to fill others with; `None` once it has.
    filling: Option<Updates>,
}

impl Cluster {
    fn new() -> Self {
        let fed = vec![false, true, true];
        let role = |node| if node == 0 { OWNER } else { BACKUP };
        Cluster {
            nodes: (0..NODES).map(|node| Node::begin(role(node))).collect(),
            owner: 0,
            fed,
            resume: None,
            last: None,
            last_opened: None,
            next: 1,
            history: Vec::new(),
            sealed: Vec::new(),
            stored: vec![0; NODES],
            recorded: vec![None; NODES],
            filling: None,
        }
    }

    fn is_target(&self, node: usize) -> bool {
        node == self.owner || self.fed[node]
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Seal { updates, filling } => self.seal(updates, filling),
            Step::Store { node, deltas } => {
                if self.is_target(node) {
                    let to = (self.stored[node] + deltas).min(self.sealed.len());
                    for (_, frame) in &self.sealed[self.stored[node]..to] {
                        assert_eq!(self.nodes[node].store(frame), Ok(1));
                    }
                    self.stored[node] = to;
                }
            }
            Step::Record { node } => {
                let targets = (0..NODES).filter(|node| self.is_target(*node));
                let stored = targets.map(|node| self.stored[node]).min().unwrap();
                let Some((epoch, _)) = stored.checked_sub(1).map(|last| &self.sealed[last]) else {
                    return;
                };
                let to = &self.nodes[node];
                to.vault.complete(ViewNumber(to.view), to.operator, Epoch(*epoch)).unwrap();
                to.record(*epoch);
                self.recorded[node] = Some(*epoch);
            }
            Step::Compact { node, budget_bytes } => {
                self.nodes[node].vault.compact(budget_bytes).unwrap();
            }
            Step::View { owner, fed } => self.view(owner, fed),
        }
    }

    fn seal(&mut self, updates: Vec<Updates>, filling: usize) {
        let epoch = self.next;
        let mut chunks: Vec<(ChunkId, Vec<u8>)> = (0_u32..)
            .zip(&updates)
            .map(|(index, updates)| (id(epoch, index), encode(updates)))
            .collect();
        let mut completes = false;
        if let (Some(left), Some(resume)) = (&mut self.filling, self.resume) {
            let some = left.split_off(left.len().saturating_sub(filling * 100));
            // Names that nobody has, and some that the owner's own copy may have.
            let name = id(resume - resume.min(u64::from(epoch.is_multiple_of(3))), epoch as u32);
            chunks.push((name, encode(&some)));
            completes = left.is_empty();
        }
        if completes {
            self.filling = None;
        }
        let operator = self.nodes[self.owner].operator;
        let frame = delta(operator, (self.last, epoch), &chunks, completes);
        self.sealed.push((epoch, frame));
        self.history.extend(updates.into_iter().map(|updates| (epoch, updates)));
        self.last = Some(epoch);
        self.next += 1 + epoch % 2;
    }

    fn view(&mut self, owner: usize, mut fed: Vec<bool>) {
        let recorded = self.recorded.iter().max().copied().flatten();
        let resume = recorded.max(self.resume);
        // As the plan counts copies.
        let is_copy = |node: usize| {
            let copies = self.nodes[node].vault.inventory().partitions.get(&P0).copied();
            let copies = copies.unwrap_or_default();
            let spans = copies.replica.is_some_and(|span| {
                let through = if self.fed[node] {
                    span.through.max(recorded.map(Epoch))
                } else {
                    span.through
                };
                span.from <= resume.map(Epoch) && through >= resume.map(Epoch)
            });
            resume.is_none() || spans || (copies.live && node == self.owner)
        };
        let owner = if is_copy(owner) { owner } else { self.owner };
        assert!(is_copy(owner), "an owner has a copy");
        // An owner is its own backup only where nobody else is one.
        fed[owner] = fed.iter().all(|fed| !fed);
        let has_all: BTreeSet<usize> = (0..NODES).filter(|node| is_copy(*node)).collect();
        for (node, here) in self.nodes.iter_mut().enumerate() {
            let role = match (node == owner, fed[node]) {
                (true, false) => OWNER,
                (true, true) => BOTH,
                (false, true) => BACKUP,
                (false, false) => NOTHING,
            };
            here.install(resume, role);
        }
        self.history.retain(|(epoch, _)| Some(*epoch) <= resume);
        let sealed = self.sealed.iter().map(|(epoch, _)| *epoch);
        let last = sealed.filter(|epoch| Some(*epoch) <= resume).max().or(self.last_opened);
        self.owner = owner;
        let filling =
            (0..NODES).any(|node| fed[node] && (!has_all.contains(&node) || node == owner));
        self.fed = fed;
        self.resume = resume;
        // What was cut off comes again, under the same epochs and names.
        self.next = resume.map_or(1, |resume| resume + 1);
        self.sealed.clear();
        self.stored = vec![0; NODES];
        self.recorded = vec![resume; NODES];
        let Node { vault, operator, .. } = &self.nodes[owner];
        let opened = vault.open_replica(vault.present(), *operator, P0);
        let opened = opened.unwrap().unwrap();
        assert_eq!(opened.last.map(|epoch| epoch.0), last);
        (self.last, self.last_opened) = (last, last);
        let sum = self.nodes[owner].sum().unwrap();
        assert_eq!(sum, self.model());
        self.filling = (filling && resume.is_some()).then(|| sum.into_iter().collect());
    }

    fn model(&self) -> Sum {
        let mut sum = Sum::new();
        for (_, updates) in &self.history {
            add(&mut sum, updates.iter().copied());
        }
        sum
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn every_owner_opens_the_sum_of_what_was_committed(steps in steps()) {
        let mut cluster = Cluster::new();
        for step in steps {
            cluster.step(step);
        }
        // All is stored and committed, and each node that then has a copy could go on.
        for node in 0..NODES {
            cluster.step(Step::Store { node, deltas: usize::MAX / 2 });
        }
        for node in 0..NODES {
            cluster.step(Step::Record { node });
            cluster.step(Step::Compact { node, budget_bytes: usize::MAX });
        }
        for owner in 0..NODES {
            cluster.view(owner, vec![true; NODES]);
        }
    }
}
