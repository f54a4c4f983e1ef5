//! The rules of the durable tier as a small machine, explored exhaustively.
//!
//! Two nodes write segments to a store, the lowest of them writes manifests, and a register gives out views.
//! Every request to the store lands at any later time or never, also after its sender is gone; power cuts
//! and false alarms come at any moment. In each reachable state three things must hold:
//!
//! - **whole**: the manifest that a start would choose names only segments that are there, with the bytes
//!   that its writer meant;
//! - **kept**: whatever was said to be durable lies on the line of history that a start would choose;
//! - **agreed**: that line is the one on which the newest view goes on, which may have released more by now.
//!
//! Each rule can be left out; then one of the three breaks ([`RULES`]).
//!
//! A view change with survivors goes on from memory: its resume epoch is at least everything that any
//! manifest of the view before can hold, since each survivor has written its part of it. A start without
//! survivors (`Cold`) has only the store. It creates its view first, which stops the writers before it from
//! saying anything more, and then claims what it resumes from: a manifest of its own with the next
//! number and the same segments. A number that is taken means that somebody else was faster, and the start
//! looks again. A manifest whose view is lower than that of one with a lower number is void.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

const NODES: u8 = 2;

/// How far the exploration goes.
#[derive(Clone, Copy)]
struct Bounds {
    views: u8,
    epochs: u8,
    manifests: u8,
    in_flight: usize,
}

/// What can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Segments are named by the view of their writer.
    NamesHaveViews,
    /// A manifest is written when all its segments are there.
    SegmentsFirst,
    /// A manifest's number can be created once.
    NumbersOnce,
    /// Durable is said when the manifest is there.
    ReadBack,
    /// Durable is said only if the view is still the newest.
    NewestSays,
    /// A start claims what it resumes from.
    StartClaims,
    /// A manifest of a view that is over is void.
    LateIsVoid,
    /// Whoever deletes has written a manifest that does not name it.
    ManifestBeforeDelete,
    /// Whoever deletes asks the register first.
    NewestDeletes,
    /// What a running writer can own is not swept.
    SweepSparesWriters,
}

const RULES: [Rule; 10] = [
    Rule::NamesHaveViews,
    Rule::SegmentsFirst,
    Rule::NumbersOnce,
    Rule::ReadBack,
    Rule::NewestSays,
    Rule::StartClaims,
    Rule::LateIsVoid,
    Rule::ManifestBeforeDelete,
    Rule::NewestDeletes,
    Rule::SweepSparesWriters,
];

type View = u8;
type Epoch = u8;
type Number = u8;

/// The name of a segment: view (0 where names have none), node, epoch.
type Name = (View, u8, Epoch);

/// A moment of history: an epoch as a view computed it.
type Moment = (View, Epoch);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Manifest {
    view: View,
    /// What it holds.
    moment: Moment,
    segments: BTreeSet<Name>,
}

/// A request on its way to the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Request {
    Put(Name, View),
    Create(Number, Manifest),
    Delete(Name),
}

/// Where the lowest member of a view stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Writer {
    /// A start that has not claimed yet.
    Starting,
    /// Its claim of this number is on its way.
    Claiming(Number),
    Idle,
    /// The manifest of this number and epoch is on its way.
    Writing(Number, Epoch),
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Life {
    /// The moment that it resumed from; `None` before a start has claimed.
    resume: Option<Moment>,
    /// The epoch that is committed in memory.
    committed: Epoch,
    /// The greatest epoch for which each node has sent its segment.
    sent: [Epoch; NODES as usize],
    writer: Writer,
    /// The newest manifest that it has written or resumed from.
    newest: Option<Manifest>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct State {
    /// The views of the register, from 1.
    lives: Vec<Life>,
    /// What is stored: who wrote the bytes that a name has.
    segments: BTreeMap<Name, View>,
    manifests: BTreeMap<Number, Manifest>,
    requests: BTreeSet<Request>,
    /// What was said to be durable.
    said: BTreeSet<Moment>,
}

struct Model {
    bounds: Bounds,
    without: Option<Rule>,
}

impl Model {
    fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    fn name(&self, view: View, node: u8, epoch: Epoch) -> Name {
        (if self.has(Rule::NamesHaveViews) { view } else { 0 }, node, epoch)
    }

    fn initial(&self) -> State {
        let life = Life {
            resume: Some((0, 0)),
            committed: 0,
            sent: [0; NODES as usize],
            writer: Writer::Idle,
            newest: None,
        };
        State { lives: vec![life], ..State::default() }
    }

    /// The manifest that a start would choose: the highest number that is not void.
    fn chosen<'s>(&self, state: &'s State) -> Option<(Number, &'s Manifest)> {
        let mut greatest = 0;
        let mut chosen = None;
        for (&number, manifest) in &state.manifests {
            if manifest.view >= greatest || !self.has(Rule::LateIsVoid) {
                chosen = Some((number, manifest));
            }
            greatest = greatest.max(manifest.view);
        }
        chosen
    }

    fn is_newest(state: &State, view: View) -> bool {
        view as usize == state.lives.len()
    }

    fn send(&self, state: &State, request: Request) -> Option<State> {
        let mut next = state.clone();
        next.requests.insert(request);
        (next.requests.len() <= self.bounds.in_flight).then_some(next)
    }

    fn edit(state: &State, view: View, edit: impl FnOnce(&mut Life)) -> State {
        let mut next = state.clone();
        edit(&mut next.lives[view as usize - 1]);
        next
    }

    /// All states that can follow.
    fn successors(&self, state: &State) -> Vec<State> {
        let mut all = Vec::new();
        self.land(state, &mut all);
        self.change_views(state, &mut all);
        for view in 1..=state.lives.len() as View {
            let life = &state.lives[view as usize - 1];
            match life.writer {
                Writer::Dead => {}
                Writer::Starting | Writer::Claiming(_) => self.start(state, view, life, &mut all),
                Writer::Idle | Writer::Writing(..) => self.live(state, view, life, &mut all),
            }
        }
        all
    }

    /// Requests that reach the store, or never do.
    fn land(&self, state: &State, all: &mut Vec<State>) {
        for request in &state.requests {
            let mut lost = state.clone();
            lost.requests.remove(request);
            let mut landed = lost.clone();
            match request.clone() {
                Request::Put(name, writer) => {
                    landed.segments.insert(name, writer);
                }
                Request::Create(number, manifest) => {
                    if self.has(Rule::NumbersOnce) {
                        landed.manifests.entry(number).or_insert(manifest);
                    } else {
                        landed.manifests.insert(number, manifest);
                    }
                }
                Request::Delete(name) => {
                    landed.segments.remove(&name);
                }
            }
            all.extend([lost, landed]);
        }
    }

    /// A false alarm makes a view with survivors, whose writer of before goes on unawares; a power cut
    /// ends everybody, and a start creates a view. A zombie may also outlive a start.
    fn change_views(&self, state: &State, all: &mut Vec<State>) {
        if state.lives.len() as View >= self.bounds.views {
            return;
        }
        let number = state.lives.len() as View;
        let last = &state.lives[number as usize - 1];
        let is_settled = !matches!(last.writer, Writer::Starting | Writer::Claiming(_));
        if last.writer != Writer::Dead && is_settled {
            let mut next = state.clone();
            next.lives.push(Life {
                resume: Some((number, last.committed)),
                committed: last.committed,
                sent: [last.committed; NODES as usize],
                writer: Writer::Idle,
                newest: last.newest.clone(),
            });
            all.push(next);
        }
        for is_zombie in [false, true] {
            let mut next = state.clone();
            if !is_zombie {
                next.lives.iter_mut().for_each(|life| life.writer = Writer::Dead);
            }
            next.lives.push(Life {
                resume: None,
                committed: 0,
                sent: [0; NODES as usize],
                writer: Writer::Starting,
                newest: None,
            });
            all.push(next);
        }
    }

    /// A start looks for what it can resume from, and claims it.
    fn start(&self, state: &State, view: View, life: &Life, all: &mut Vec<State>) {
        let begin = |state: &State, found: Option<&Manifest>| {
            Self::edit(state, view, |life| {
                let moment = found.map_or((0, 0), |manifest| manifest.moment);
                life.resume = Some(moment);
                life.committed = moment.1;
                life.sent = [moment.1; NODES as usize];
                life.newest = found.cloned();
                life.writer = Writer::Idle;
            })
        };
        match life.writer {
            Writer::Starting => {
                let found = self.chosen(state);
                if !self.has(Rule::StartClaims) {
                    all.push(begin(state, found.map(|(_, manifest)| manifest)));
                    return;
                }
                let number = state.manifests.keys().last().map_or(1, |number| number + 1);
                let (moment, segments) =
                    found.map_or_else(Default::default, |(_, m)| (m.moment, m.segments.clone()));
                let claim = Manifest { view, moment, segments };
                if number <= self.bounds.manifests
                    && let Some(next) = self.send(state, Request::Create(number, claim))
                {
                    all.push(Self::edit(&next, view, |life| {
                        life.writer = Writer::Claiming(number)
                    }));
                }
            }
            Writer::Claiming(number) => match state.manifests.get(&number) {
                Some(manifest) if manifest.view == view => all.push(begin(state, Some(manifest))),
                // Somebody else was faster: it looks again.
                Some(_) => all.push(Self::edit(state, view, |life| life.writer = Writer::Starting)),
                None => {}
            },
            _ => {}
        }
    }

    /// What a running view does, also one that is over and does not know.
    fn live(&self, state: &State, view: View, life: &Life, all: &mut Vec<State>) {
        let Some(resume) = life.resume else { return };
        // Survivors of a view have stopped: nothing more is committed in it. One that a start has
        // passed over may still be whole.
        let is_stopped = state.lives.get(view as usize).is_some_and(|next| {
            next.resume.is_some_and(|(before, epoch)| before == view && epoch == life.committed)
        });
        if life.committed < self.bounds.epochs && !is_stopped {
            all.push(Self::edit(state, view, |life| life.committed += 1));
        }
        for node in 0..NODES {
            let sent = life.sent[usize::from(node)];
            if sent < life.committed {
                let name = self.name(view, node, life.committed);
                if let Some(next) = self.send(state, Request::Put(name, view)) {
                    all.push(Self::edit(&next, view, |life| {
                        life.sent[usize::from(node)] = life.committed;
                    }));
                }
            }
        }
        match life.writer {
            Writer::Idle => self.write(state, view, life, resume, all),
            Writer::Writing(number, epoch) => self.answer(state, view, number, epoch, all),
            _ => {}
        }
        self.delete(state, view, life, all);
    }

    /// The lowest member writes a manifest of the greatest epoch whose segments are there.
    fn write(&self, state: &State, view: View, life: &Life, resume: Moment, all: &mut Vec<State>) {
        for epoch in resume.1 + 1..=life.committed {
            if life.newest.as_ref().is_some_and(|newest| newest.moment.1 >= epoch) {
                continue;
            }
            let names = (0..NODES).map(|node| self.name(view, node, epoch));
            let is_sent = life.sent.iter().all(|sent| *sent >= epoch);
            let is_there = names.clone().all(|name| state.segments.contains_key(&name));
            if !is_sent || (self.has(Rule::SegmentsFirst) && !is_there) {
                continue;
            }
            let number = state.manifests.keys().last().map_or(1, |number| number + 1);
            let manifest = Manifest { view, moment: (view, epoch), segments: names.collect() };
            if number <= self.bounds.manifests
                && let Some(next) = self.send(state, Request::Create(number, manifest))
            {
                all.push(Self::edit(&next, view, |life| {
                    life.writer = Writer::Writing(number, epoch);
                }));
            }
        }
    }

    /// The writer reads what became of its manifest, asks the register, and says that it is durable.
    fn answer(
        &self,
        state: &State,
        view: View,
        number: Number,
        epoch: Epoch,
        all: &mut Vec<State>,
    ) {
        let stored = state.manifests.get(&number);
        let is_ours = stored.is_some_and(|manifest| manifest.moment == (view, epoch));
        if !is_ours && self.has(Rule::ReadBack) {
            // Taken by another: the next number, or nothing more.
            if stored.is_some() {
                all.push(Self::edit(state, view, |life| life.writer = Writer::Idle));
            }
            return;
        }
        let may_say = !self.has(Rule::NewestSays) || Self::is_newest(state, view);
        let segments = (0..NODES).map(|node| self.name(view, node, epoch)).collect();
        let newest = Manifest { view, moment: (view, epoch), segments };
        let mut next = Self::edit(state, view, |life| {
            life.writer = if may_say { Writer::Idle } else { Writer::Dead };
            life.newest = Some(newest);
        });
        if may_say {
            next.said.insert((view, epoch));
        }
        all.push(next);
    }

    /// A writer deletes what its newest manifest does not name, or sweeps what nobody names.
    fn delete(&self, state: &State, view: View, life: &Life, all: &mut Vec<State>) {
        if self.has(Rule::NewestDeletes) && !Self::is_newest(state, view) {
            return;
        }
        let kept = life.newest.as_ref().map(|newest| &newest.segments);
        let has_written = life.newest.as_ref().is_some_and(|newest| newest.view == view);
        if self.has(Rule::ManifestBeforeDelete) && !has_written {
            return;
        }
        for (&name, &writer) in &state.segments {
            let is_kept = kept.is_some_and(|kept| kept.contains(&name));
            let is_own = writer == view && name.2 > life.newest.as_ref().map_or(0, |n| n.moment.1);
            if is_kept || (is_own && self.has(Rule::SweepSparesWriters)) {
                continue;
            }
            all.extend(self.send(state, Request::Delete(name)));
        }
    }

    /// What must hold in every state.
    fn check(&self, state: &State) -> Result<(), String> {
        let chosen = self.chosen(state).map(|(_, manifest)| manifest);
        if let Some(manifest) = chosen {
            for name in &manifest.segments {
                match state.segments.get(name) {
                    Some(writer) if *writer == manifest.moment.0 => {}
                    found => return Err(format!("not whole: {name:?} is {found:?}: {manifest:?}")),
                }
            }
        }
        let line = self.line(state, chosen.map_or((0, 0), |manifest| manifest.moment));
        for &(view, epoch) in &state.said {
            if !line.iter().any(|&(on, through)| on == view && through >= epoch) {
                return Err(format!("not kept: {view}/{epoch} is not on the line {line:?}"));
            }
        }
        let newest = state.lives.len() as View;
        let begun = state.lives.last().and_then(|life| life.resume.map(|_| newest));
        if let (Some(manifest), Some(view)) = (chosen, begun) {
            let (on, epoch) = manifest.moment;
            let newest = self.line(state, (view, Epoch::MAX));
            if on > 0 && !newest.iter().any(|&(of, through)| of == on && through >= epoch) {
                return Err(format!("not agreed: {on}/{epoch} is not on the line {newest:?}"));
            }
        }
        Ok(())
    }

    /// The moments that a moment stands on: each view with the epoch through which its history counts.
    fn line(&self, state: &State, mut moment: Moment) -> Vec<Moment> {
        let mut line = vec![moment];
        while moment.0 > 0 {
            moment = state.lives[moment.0 as usize - 1].resume.unwrap_or_default();
            line.push(moment);
        }
        line
    }

    /// Explores everything. Returns how many states there are, or what broke and where.
    ///
    /// A state that was seen is known by a hash of 64 bits: that two of some million have the same is unlikely
    /// enough for a test.
    fn explore(&self) -> Result<usize, String> {
        let hash = |state: &State| {
            let mut hasher = DefaultHasher::new();
            state.hash(&mut hasher);
            hasher.finish()
        };
        let initial = self.initial();
        let mut known = BTreeSet::from([hash(&initial)]);
        let mut open = VecDeque::from([initial]);
        while let Some(state) = open.pop_front() {
            self.check(&state).map_err(|what| format!("{what}\nin {state:#?}"))?;
            for next in self.successors(&state) {
                if known.insert(hash(&next)) {
                    open.push_back(next);
                }
            }
        }
        Ok(known.len())
    }
}

const BOUNDS: Bounds = Bounds { views: 2, epochs: 2, manifests: 3, in_flight: 2 };

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes without optimisation")]
fn the_rules_keep_what_is_durable() {
    let states = Model { bounds: BOUNDS, without: None }.explore().unwrap();
    println!("{states} states");
    assert!(states > 10_000, "only {states} states: the model does not move");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes without optimisation")]
fn without_any_one_rule_something_breaks() {
    for rule in RULES {
        let broken = Model { bounds: BOUNDS, without: Some(rule) }.explore();
        let Err(what) = broken else { panic!("nothing breaks without {rule:?}: {broken:?}") };
        println!("{rule:?}: {}", what.lines().next().unwrap_or_default());
    }
}
