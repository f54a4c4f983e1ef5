//! The present view at a node: connecting, running, or ending.
//!
//! ```text
//! install -> linked .. -> start -> stop -> worker_ended .. -> joined: evidence
//!                 \-> stop: evidence  \-> due: evidence, which grows by each late worker
//! ```
//!
//! A generation starts once all data connections of its view stand. Its workers are asked to leave, and most do
//! within a millisecond. One that is in the job's own code cannot be made to: it may sleep, build, or wait for a
//! server. So after a moment the generation is closed at the vault instead, which refuses whatever such a
//! worker still does, and evidence is given of what is there. A worker that comes back later hands over its live
//! state, and the evidence grows by it, until the next view is installed. From then on its thread is only
//! waited for.
//!
//! This says what is due and when. Its owner has the connections, the threads and the vault.
//!
//! INVARIANT: evidence is first given when nothing that a worker still does changes what the node holds: all
//! threads are joined, or the vault is closed. INVARIANT: of the connections that wait, each member has one at
//! most, and all are of the next view, or of any while this node is in none.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_operators::ids::{Incarnation, NodeId, PartitionId, ViewNumber};

use super::message::Input;
use super::planted::{self, Planted};
use super::view::{Evidence, Member, View, ViewDigest};

/// How many generations may have threads left in the job's own code. With more, the next one is not closed
/// without its workers, and the node ends if they do not leave: each such generation keeps memory.
pub const ABANDONED_MAX: usize = 16;

/// How long workers are waited for.
#[derive(Clone, Copy, Debug)]
pub struct PresentLimits {
    /// How long workers may take to leave before their generation is closed without them.
    pub hand_over_ms: u64,
    /// How long the live state of late ones is awaited after that.
    pub await_ms: u64,
}

/// Who wants a data connection.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The node.
    pub node: NodeId,
    /// The start of it.
    pub incarnation: Incarnation,
    /// The view that the connection is for.
    pub view: ViewNumber,
    /// The caller's digest of that view.
    pub digest: &'a str,
    /// The start of that node with which this one has a control connection.
    pub known: Option<Incarnation>,
}

/// What becomes of somebody who wants a data connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The connection is to be made, and then told as linked.
    Accept,
    /// It is ahead by a moment, and is kept until this node has the view, too.
    Wait,
    /// It is refused, and why.
    Refuse(Why),
}

/// Why a data connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is too far ahead.
    NotYet,
    /// Its view is over here.
    Stale,
    /// The two disagree on what the view says.
    OtherDigest,
    /// The caller is not in the view.
    NotAMember,
    /// This node has ended its part in the view.
    Ended,
    /// There is a connection already.
    AlreadyConnected,
}

/// What is to be done with the vault, and then said with [`Present::testify`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The vault is to be closed for the view, and evidence given for the first time.
    Close,
    /// The same, though workers have not left.
    CloseEarly,
    /// Evidence is to be given again, since it has grown or is not going to.
    Grow,
}

/// What the end of a worker means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// For its view.
    pub standing: Standing,
    /// Whether it was the last of its generation: its threads can be joined.
    pub is_last: bool,
}

/// What the end of a worker means for its view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It says how the present view goes on.
    InTime,
    /// The generation is closed: whatever it says of itself, only the state that it handed over counts.
    Late,
    /// The view is over.
    Over,
}

/// A node's part in its present view. `C` is a call for a data connection, `L` a connection that stands.
#[derive(Debug)]
pub struct Present<C, L> {
    node: NodeId,
    nodes: BTreeSet<NodeId>,
    workers: usize,
    limits: PresentLimits,
    current: Option<Current<L>>,
    /// Those who are ahead, in the order in which they came.
    waiting: Vec<(NodeId, C)>,
    /// The workers that have ended, of generations that are over and not joined.
    abandoned: BTreeMap<ViewNumber, BTreeSet<usize>>,
}

#[derive(Debug)]
struct Current<L> {
    view: View,
    digest: ViewDigest,
    /// The connections that stand, until the generation is started with them.
    links: Option<BTreeMap<NodeId, L>>,
    ended: BTreeSet<usize>,
    finished: usize,
    /// When its workers were asked to leave.
    asked_ms: Option<u64>,
    /// When it was closed before all of its workers had left, if that is so.
    closed_ms: Option<u64>,
    /// Whether live state of workers that have not left may still be needed.
    awaits: bool,
    joined: bool,
}

impl<L> Current<L> {
    fn is_started(&self) -> bool {
        self.links.is_none()
    }
}

impl<C, L> Present<C, L> {
    /// Returns that of a node without a view, in a cluster of `nodes` with `workers` each.
    pub fn new(
        node: NodeId,
        nodes: BTreeSet<NodeId>,
        workers: usize,
        limits: PresentLimits,
    ) -> Self {
        Present {
            node,
            nodes,
            workers,
            limits,
            current: None,
            waiting: Vec::new(),
            abandoned: BTreeMap::new(),
        }
    }

    // Looks.

    /// Returns the view.
    pub fn view(&self) -> Option<&View> {
        self.current.as_ref().map(|current| &current.view)
    }

    /// Returns the number of the view; 0 before the first.
    pub fn number(&self) -> ViewNumber {
        self.view().map_or(ViewNumber(0), |view| view.number)
    }

    /// Returns the digest of the view.
    pub fn digest(&self) -> Option<&ViewDigest> {
        self.current.as_ref().map(|current| &current.digest)
    }

    /// Whether this view is the present one.
    pub fn is(&self, view: ViewNumber) -> bool {
        self.of(view).is_some()
    }

    /// Whether threads of a generation of this view may be left.
    pub fn hosts(&self, view: ViewNumber) -> bool {
        self.is(view) || self.abandoned.contains_key(&view)
    }

    /// Whether the generation was started.
    pub fn is_started(&self) -> bool {
        self.current.as_ref().is_some_and(Current::is_started)
    }

    /// Whether the workers were asked to leave.
    pub fn is_stopping(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.asked_ms.is_some())
    }

    /// Whether a worker has ended.
    pub fn has_ended(&self, worker: usize) -> bool {
        self.current.as_ref().is_some_and(|current| current.ended.contains(&worker))
    }

    /// Whether any worker has ended.
    pub fn has_any_ended(&self) -> bool {
        self.current.as_ref().is_some_and(|current| !current.ended.is_empty())
    }

    /// Whether the job is complete at all workers of this node.
    pub fn is_finished(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.finished == self.workers)
    }

    /// Whether threads run that are not joined.
    pub fn has_threads(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.is_started() && !current.joined)
    }

    /// Whether live state of workers that have not left may still come and be needed.
    pub fn is_awaiting(&self) -> bool {
        self.current.as_ref().is_some_and(|c| c.awaits && c.ended.len() < self.workers)
    }

    /// Returns the members that this node connects to; the others connect to it.
    pub fn lower(&self) -> &[Member] {
        let Some(view) = self.view() else { return &[] };
        let index = view.process_index(self.node).unwrap_or(0);
        &view.members[..index]
    }

    /// Returns who is linked and not yet part of a generation.
    pub fn linked(&self) -> impl Iterator<Item = NodeId> + '_ {
        let links = self.current.iter().filter_map(|current| current.links.as_ref()).flatten();
        links.map(|(node, _)| *node)
    }

    /// Returns the connection to a member, until the generation is started with it.
    pub fn link_mut(&mut self, node: NodeId) -> Option<&mut L> {
        self.current.as_mut()?.links.as_mut()?.get_mut(&node)
    }

    /// Returns who waits.
    pub fn waiting(&self) -> impl Iterator<Item = (NodeId, &C)> + '_ {
        self.waiting.iter().map(|(node, call)| (*node, call))
    }

    fn of(&self, view: ViewNumber) -> Option<&Current<L>> {
        self.current.as_ref().filter(|current| current.view.number == view)
    }

    fn of_mut(&mut self, view: ViewNumber) -> Option<&mut Current<L>> {
        self.current.as_mut().filter(|current| current.view.number == view)
    }

    // Connections.

    /// Begins a view; returns who has waited for it, to be answered now.
    ///
    /// What is left of the view before is only waited for. This node must be a member.
    pub fn install(&mut self, view: View) -> Vec<C> {
        assert!(view.member(self.node).is_some(), "node {} is in view {}", self.node, view.number);
        if let Some(before) = self.current.take().filter(|before| before.is_started())
            && !before.joined
        {
            self.abandoned.insert(before.view.number, before.ended);
        }
        self.current = Some(Current {
            digest: view.digest(),
            view,
            links: Some(BTreeMap::new()),
            ended: BTreeSet::new(),
            finished: 0,
            asked_ms: None,
            closed_ms: None,
            awaits: false,
            joined: false,
        });
        std::mem::take(&mut self.waiting).into_iter().map(|(_, call)| call).collect()
    }

    /// Answers somebody who wants a data connection. Who is to wait is kept, with [`wait`](Self::wait).
    pub fn answer(&self, caller: &Caller<'_>) -> Answer {
        let here = self.number();
        if caller.view > here {
            return self.answer_ahead(caller);
        }
        let Some(current) = self.of(caller.view) else { return Answer::Refuse(Why::Stale) };
        let member = current.view.member(caller.node);
        if current.digest.0 != caller.digest {
            Answer::Refuse(Why::OtherDigest)
        } else if member.is_none_or(|member| member.incarnation != caller.incarnation) {
            Answer::Refuse(Why::NotAMember)
        } else if current.asked_ms.is_some() {
            Answer::Refuse(Why::Ended)
        } else if current.links.as_ref().is_none_or(|links| links.contains_key(&caller.node)) {
            Answer::Refuse(Why::AlreadyConnected)
        } else {
            Answer::Accept
        }
    }

    /// Nobody is ahead by more than one view: the next but one needs this node's evidence of the next, or does
    /// not have it.
    fn answer_ahead(&self, caller: &Caller<'_>) -> Answer {
        let is_known = match caller.known {
            Some(known) => known == caller.incarnation,
            // Before the first view the connection for control may still be on its way.
            None => self.current.is_none(),
        };
        if !is_known || !self.nodes.contains(&caller.node) || caller.node <= self.node {
            Answer::Refuse(Why::NotAMember)
        } else if !self.may_be_next(caller.view) && !planted::is(Planted::WaitingUnbounded) {
            Answer::Refuse(Why::NotYet)
        } else {
            Answer::Wait
        }
    }

    /// Whether this view may follow the present one. Who is in no view may be taken in by any.
    fn may_be_next(&self, view: ViewNumber) -> bool {
        self.current.is_none() || view.0 == self.number().0 + 1
    }

    /// Keeps a call until this node has the view, too. A later one of the same node takes its place.
    pub fn wait(&mut self, node: NodeId, call: C) {
        if !planted::is(Planted::WaitingUnbounded) {
            self.waiting.retain(|(other, _)| *other != node);
        }
        self.waiting.push((node, call));
    }

    /// A data connection stands. Returns whether it is wanted: else it is to be closed.
    pub fn link(&mut self, view: ViewNumber, node: NodeId, link: L) -> bool {
        let current = self.of_mut(view).filter(|current| current.asked_ms.is_none());
        let Some(links) = current.and_then(|current| current.links.as_mut()) else { return false };
        links.insert(node, link);
        true
    }

    /// Starts the generation once all data connections stand, and then never again. Returns the connections in
    /// the order of the members, with `None` for this node.
    pub fn start(&mut self) -> Option<Vec<Option<L>>> {
        let current = self.current.as_mut()?;
        let linked = current.links.as_ref()?.len();
        let is_linked =
            linked + 1 == current.view.members.len() || planted::is(Planted::StartBeforeLinked);
        if !is_linked || current.asked_ms.is_some() {
            return None;
        }
        let mut links = current.links.take()?;
        Some(current.view.members.iter().map(|member| links.remove(&member.node)).collect())
    }

    // The end.

    /// The generation is to end: its workers are asked to leave. What was never started has no workers, so
    /// evidence is due at once.
    pub fn stop(&mut self, now_ms: u64, view: ViewNumber) -> Option<Due> {
        let current = self.of_mut(view)?;
        current.asked_ms = Some(now_ms);
        let was_started = current.is_started();
        if let Some(links) = &mut current.links {
            links.clear();
        }
        (!was_started || planted::is(Planted::EvidenceBeforeJoined)).then_some(Due::Close)
    }

    /// A worker has ended; `finished` says whether the job is complete there.
    pub fn worker_ended(&mut self, view: ViewNumber, worker: usize, finished: bool) -> Departure {
        let workers = self.workers;
        let present = planted::is(Planted::LateEndCounted).then_some(self.number());
        if let Some(current) = self.of_mut(present.unwrap_or(view)) {
            current.ended.insert(worker);
            let is_last = current.ended.len() == workers;
            if current.closed_ms.is_some() {
                return Departure { standing: Standing::Late, is_last };
            }
            current.finished += usize::from(finished);
            return Departure { standing: Standing::InTime, is_last };
        }
        let ended = self.abandoned.get_mut(&view);
        let is_last = ended.is_some_and(|ended| {
            ended.insert(worker);
            ended.len() == workers
        });
        Departure { standing: Standing::Over, is_last }
    }

    /// All threads of a generation are joined.
    pub fn joined(&mut self, view: ViewNumber) -> Option<Due> {
        self.abandoned.remove(&view);
        let workers = self.workers;
        let current = self.of_mut(view)?;
        current.joined = true;
        (current.finished < workers && current.closed_ms.is_none()).then_some(Due::Close)
    }

    /// What is due, and since when, where workers take too long to leave: late ones are waited for no longer
    /// than any that hangs.
    fn next(&self) -> Option<(u64, Due)> {
        let is_room = self.abandoned.len() < ABANDONED_MAX;
        let current = self.current.as_ref().filter(|current| current.is_started())?;
        let asked_ms = current.asked_ms.filter(|_| current.ended.len() < self.workers)?;
        match current.closed_ms {
            None if is_room => Some((asked_ms + self.limits.hand_over_ms, Due::CloseEarly)),
            Some(closed_ms) if current.awaits => {
                Some((closed_ms + self.limits.await_ms, Due::Grow))
            }
            _ => None,
        }
    }

    /// Returns when [`due`](Self::due) is to be asked, if nothing else happens before.
    pub fn next_deadline(&self) -> Option<u64> {
        self.next().map(|(at_ms, _)| at_ms)
    }

    /// Returns what is due because workers have not left, once.
    pub fn due(&mut self, now_ms: u64) -> Option<Due> {
        let (_, due) = self.next().filter(|(at_ms, _)| *at_ms <= now_ms)?;
        let current = self.current.as_mut()?;
        if due == Due::CloseEarly {
            current.closed_ms = Some(now_ms);
        }
        current.awaits = due == Due::CloseEarly;
        Some(due)
    }

    /// Returns how long ago the workers were asked to leave.
    pub fn asked_since_ms(&self, now_ms: u64) -> Option<u64> {
        Some(now_ms.saturating_sub(self.current.as_ref()?.asked_ms?))
    }

    /// Says what this node holds of its view, now that what is `due` was done.
    pub fn testify(&self, due: Due, evidence: Evidence) -> Input {
        let (view, awaited) = (self.number(), self.awaited(&evidence));
        match due {
            Due::Close | Due::CloseEarly => Input::GenerationStopped { view, evidence, awaited },
            Due::Grow => Input::EvidenceGrown { view, evidence, awaited },
        }
    }

    /// The partitions whose live state may still come, since their workers have not left.
    fn awaited(&self, evidence: &Evidence) -> Vec<PartitionId> {
        let Some(current) = self.current.as_ref().filter(|current| current.awaits) else {
            return Vec::new();
        };
        let is_awaited = |partition: PartitionId, worker: u32| {
            let is_live = evidence.copy(partition).is_some_and(|copy| copy.live);
            !is_live && !current.ended.contains(&(worker as usize))
        };
        let places = current.view.assignment.iter();
        let own = places.filter(|(_, place)| place.owner.node == self.node);
        let awaited = own.filter(|(partition, place)| is_awaited(*partition, place.owner.worker));
        awaited.map(|(partition, _)| partition).collect()
    }
}
