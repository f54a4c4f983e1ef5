//! Joining: how a process of a run that is under way finds the members of the newest view.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use ringfence_operators::ids::{Incarnation, NodeId};

use super::{Node, NodeEvent, RunSource};
use crate::error::{Error, Kind, Result};
use crate::network::{DialError, Hello, Purpose, Welcome};
use crate::protocol::member::{Machine, Phase};
use crate::protocol::message::Input;
use crate::protocol::view::View;

/// How long one attempt to reach a member may take; the protocol says when to try again.
const REACH_LIMIT: Duration = Duration::from_secs(2);

impl Node {
    /// Whether this process is in no view of a run that is under way.
    pub(super) fn is_joining(&self) -> bool {
        self.machine.as_ref().is_some_and(|machine| *machine.phase() == Phase::Joining)
    }

    /// Whether this start of a node is in the same view as this node.
    pub(super) fn is_member(&self, node: NodeId, incarnation: Incarnation) -> bool {
        let member = self.present.view().and_then(|view| view.member(node));
        member.is_some_and(|member| member.incarnation == incarnation)
    }

    /// Dials a member that the protocol wants to talk to, unless that is done already.
    pub(super) fn connect_to(&mut self, node: NodeId, incarnation: Incarnation, address: String) {
        let is_known = self.controls.get(&node).is_some_and(|(known, _)| *known == incarnation);
        if is_known || !self.dialling.insert(node) {
            return;
        }
        // What this node was told itself goes before what others say.
        let address = self.setup.nodes.get(&node).cloned().unwrap_or(address);
        let hello = self.hello(Purpose::Control, node, Some(incarnation));
        let deadline = Instant::now() + REACH_LIMIT;
        self.spawn_dial(address, hello, deadline, move |result| NodeEvent::Dialled {
            node,
            result,
        });
    }

    pub(super) fn on_dialled(
        &mut self,
        node: NodeId,
        result: Result<(TcpStream, Welcome), DialError>,
    ) -> Result<()> {
        self.dialling.remove(&node);
        match result {
            Ok((stream, welcome)) => self.on_welcome(node, stream, welcome),
            Err(_) if self.can_do_without(node) => Ok(()),
            Err(error) => Err(self.dial_failed(node, error)),
        }
    }

    /// Whether this node need not be connected to `node`: the protocol says whom else to call.
    fn can_do_without(&self, node: NodeId) -> bool {
        let view = self.machine.as_ref().and_then(Machine::view);
        let is_elsewhere = |view: &View| view.member(node).is_none();
        self.is_joining() || self.setup.is_restart || view.is_some_and(is_elsewhere)
    }

    /// A new start of a node has come: that is the end of the one before, whether it was noticed or not.
    pub(super) fn forget(&mut self, node: NodeId) -> Result<()> {
        let Some((incarnation, connection)) = self.controls.remove(&node) else { return Ok(()) };
        connection.close();
        let why = "it was started again".to_owned();
        self.step(Input::PeerLost { node, incarnation, why })
    }

    /// Asks the higher nodes for the run: where no register is named, whoever is started first makes one, and
    /// whoever comes back must find it.
    pub(super) fn find_run(&mut self) {
        if !matches!(self.setup.run, RunSource::Told(_)) {
            return;
        }
        let higher = self.setup.nodes.range(self.setup.node..).skip(1);
        for (node, address) in higher.map(|(node, address)| (*node, address.clone())) {
            let hello = Hello { run: String::new(), ..self.hello(Purpose::Find, node, None) };
            let deadline = self.started + self.setup.config.connect_limit;
            self.spawn_dial(address, hello, deadline, |result| NodeEvent::Found { result });
        }
    }

    /// A node has said which run it is in, if any.
    pub(super) fn on_found(
        &mut self,
        result: Result<(TcpStream, Welcome), DialError>,
    ) -> Result<()> {
        let Ok((_, welcome)) = result else { return Ok(()) };
        let own = self.run.as_ref().map_or("", |run| &run.id);
        if welcome.run.is_empty() || welcome.run == own || self.current.is_some() {
            return Ok(());
        }
        self.learn_run(&welcome)
    }

    /// Takes part in the run of which a peer has told.
    pub(super) fn learn_run(&mut self, welcome: &Welcome) -> Result<()> {
        let RunSource::Told(open) = &self.setup.run else { return Ok(()) };
        let Some(location) = &welcome.register else { return Ok(()) };
        let run = open(location)?;
        if run.id != welcome.run {
            let text = format!(
                "register {location} holds run {}, but node {} is in run {}: the directory must be the \
                 same one for all nodes (see --register)",
                run.id, welcome.node, welcome.run
            );
            return Err(Error::new(Kind::Register, text));
        }
        // Whoever has called before was told of the run that is given up.
        for (node, (incarnation, _)) in &self.controls {
            let address = self.setup.nodes.get(node).cloned().unwrap_or_default();
            let (node, incarnation) = (*node, *incarnation);
            if self.run.is_some() {
                self.early.push(Input::PeerUp { node, incarnation, address });
            }
        }
        self.join_run(run)
    }
}
