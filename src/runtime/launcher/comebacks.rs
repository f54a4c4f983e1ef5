//! Comebacks: nodes that have ended while the others go on are started again, a bounded number of times.
//!
//! A node is started again once the others have a view without it. Before that they may still need what it had to
//! say, or end for the same reason. It listens where it listened before, so that nobody needs to be told.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ringfence_operators::ids::NodeId;

use super::process::Node;
use super::{Launcher, Start, ToNode, channel, now_ms};
use crate::error::Result;
use crate::report::{Event, Origin, What};

/// How often processes may be started again.
pub(super) struct Comebacks {
    max: u32,
    window: Duration,
    /// When processes were started again, those of the last while.
    begun: VecDeque<Instant>,
    is_told: bool,
}

impl Comebacks {
    pub(super) fn new((max, window): (u32, Duration)) -> Self {
        Comebacks { max, window, begun: VecDeque::new(), is_told: false }
    }

    /// Takes one from the budget, and returns how many of it are used.
    fn take(&mut self, now: Instant) -> Option<u32> {
        while self.begun.front().is_some_and(|at| now.duration_since(*at) > self.window) {
            self.begun.pop_front();
        }
        if self.begun.len() >= self.max as usize {
            return None;
        }
        self.begun.push_back(now);
        Some(self.begun.len() as u32)
    }

    /// What to say of a node that is not started again, the first time.
    fn refuse(&mut self, node: NodeId) -> Option<String> {
        if self.max == 0 || std::mem::replace(&mut self.is_told, true) {
            return None;
        }
        Some(format!(
            "node {node} is not started again: {} processes were within {} s (see --node-restarts); the others \
             go on without it",
            self.max,
            self.window.as_secs()
        ))
    }
}

impl Launcher<'_> {
    /// Starts again who has ended and is not in the latest view, and ends who comes back to nobody.
    pub(super) fn bring_back(&mut self) -> Result<()> {
        if !self.has_formed() || self.nodes.iter().all(|node| node.status.is_none()) {
            return Ok(());
        }
        let is_over = !self.desk.summary().finished().is_empty();
        let members = self.desk.summary().members().to_vec();
        let is_member = |node: &Node| members.contains(&node.id);
        if !self.nodes.iter().any(|node| node.status.is_none() && is_member(node)) {
            // Where the job is done, those who wait to be taken in learn it from the register.
            let strays = self.nodes.iter_mut().filter(|node| !is_over && node.status.is_none());
            strays.for_each(Node::end_in_vain);
            return Ok(());
        }
        let may_return = |node: &Node| {
            let has_failed = node.status.is_some_and(|status| !status.success());
            has_failed && node.outputs_open == 0 && node.end_told && !is_member(node)
        };
        for index in 0..self.nodes.len() {
            if !is_over && !self.nodes[index].is_given_up && may_return(&self.nodes[index]) {
                self.bring_back_one(index)?;
            }
        }
        Ok(())
    }

    fn bring_back_one(&mut self, index: usize) -> Result<()> {
        let (id, address) = (self.nodes[index].id, self.nodes[index].address.clone());
        let Some(restarts) = self.comebacks.take(Instant::now()) else {
            self.nodes[index].is_given_up = true;
            self.comebacks.refuse(id).into_iter().for_each(|text| self.say(text));
            return Ok(());
        };
        let display = &self.desk.outlets().display;
        let mut node =
            Node::spawn(self.config, self.turn, id, address.as_deref(), display, &self.sender)?;
        node.address = address;
        let (target, process_id) = (id, node.child.id());
        self.nodes[index] = node;
        let what = What::Restarted { target, process_id, restarts };
        self.publish(Event::at(now_ms(), Origin::LAUNCHER, what));
        Ok(())
    }

    /// What a node must know to begin.
    pub(super) fn start_of(&self, id: NodeId, is_restart: bool) -> ToNode {
        let address = |node: &Node| (node.id, node.address.clone().unwrap_or_default());
        let addresses: Vec<(NodeId, String)> = self.nodes.iter().map(address).collect();
        ToNode::Start(Start {
            run: self.run.clone(),
            register: self.register.path(),
            peers: self.injector.addresses_for(id, &addresses),
            launcher_process_id: std::process::id(),
            is_restart,
        })
    }

    /// Lets a node begin that listens again.
    pub(super) fn welcome_back(&mut self, id: NodeId) {
        if !self.has_begun {
            return;
        }
        let start = self.start_of(id, true);
        // A node that is gone already is noticed by the next look at it.
        let _ = channel::send(&self.node(id).channel, &start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_fills_again_with_time() {
        let mut comebacks = Comebacks::new((2, Duration::from_secs(10)));
        let begun = Instant::now();
        let mut take = |seconds| comebacks.take(begun + Duration::from_secs(seconds));
        assert_eq!([take(0), take(4), take(9)], [Some(1), Some(2), None]);
        assert_eq!([take(11), take(12)], [Some(2), None]);
        let text = comebacks.refuse(NodeId(2)).expect("it is told once");
        assert!(text.contains("node 2") && text.contains("--node-restarts"), "{text}");
        assert_eq!(comebacks.refuse(NodeId(1)), None);
        assert_eq!(Comebacks::new((0, Duration::ZERO)).take(begun), None);
    }
}
