//! Connections: those of control, and who is let in.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use ringfence_operators::ids::{Incarnation, NodeId};

use super::{Node, NodeEvent, RunSource};
use crate::config::PROCESSES_MAX;
use crate::error::{Error, Kind, Result};
use crate::network::{
    ControlConnection, ControlLimits, DialError, Hello, Identity, Inbound, Purpose, Refusal,
    Welcome, dial,
};
use crate::protocol::message::Input;
use crate::report::{What, named_nodes};

/// Connections that a node makes at once: to all others, for a view and the one before it. One more fails.
const DIALS_MAX: usize = 2 * PROCESSES_MAX;

impl Node {
    pub(super) fn identity(&self) -> Identity {
        Identity {
            run: self.run.as_ref().map_or_else(String::new, |run| run.id.clone()),
            job: self.setup.job_hash.clone(),
            round: self.setup.round,
            node: self.setup.node,
            incarnation: self.incarnation,
        }
    }

    pub(super) fn hello(
        &self,
        purpose: Purpose,
        to: NodeId,
        incarnation: Option<Incarnation>,
    ) -> Hello {
        let identity = self.identity();
        Hello {
            run: identity.run,
            job: identity.job,
            node: self.setup.node,
            incarnation: self.incarnation,
            address: self.setup.nodes.get(&self.setup.node).cloned().unwrap_or_default(),
            purpose,
            round: identity.round,
            to_node: to,
            to_incarnation: incarnation,
        }
    }

    pub(super) fn welcome(&self) -> Welcome {
        Welcome {
            node: self.setup.node,
            incarnation: self.incarnation,
            run: self.identity().run,
            register: self.run.as_ref().and_then(|run| run.location.clone()),
        }
    }

    pub(super) fn spawn_dial(
        &self,
        address: String,
        hello: Hello,
        deadline: Instant,
        event: impl FnOnce(Result<(TcpStream, Welcome), DialError>) -> NodeEvent + Send + 'static,
    ) {
        let (events, dials) = (self.events.clone(), Arc::clone(&self.dials));
        let others = dials.fetch_add(1, Ordering::Relaxed);
        let dialled = move || {
            let result = match others {
                0..DIALS_MAX => dial(&address, &hello, deadline),
                _ => {
                    let text = format!("{others} other connections are being made");
                    Err(DialError::Unreachable { address, error: io::Error::other(text) })
                }
            };
            dials.fetch_sub(1, Ordering::Relaxed);
            let _ = events.send(event(result));
        };
        thread::spawn(dialled);
    }

    pub(super) fn on_inbound(&mut self, inbound: Inbound) -> Result<()> {
        if let Err(reason) = self.identity().check(&inbound.hello) {
            return self.refuse(inbound, reason);
        }
        match inbound.hello.purpose.clone() {
            Purpose::Control => self.on_inbound_control(inbound),
            Purpose::Data { view, digest } => self.on_inbound_data(inbound, view, &digest),
        }
    }

    pub(super) fn on_inbound_control(&mut self, inbound: Inbound) -> Result<()> {
        let node = inbound.hello.node;
        if node <= self.setup.node || !self.setup.nodes.contains_key(&node) {
            return self.refuse(inbound, Refusal::NotAMember { node });
        }
        if let Some((known, _)) = self.controls.get(&node) {
            let reason = if *known == inbound.hello.incarnation {
                Refusal::AlreadyConnected { node }
            } else {
                Refusal::Restarted { node }
            };
            return self.refuse(inbound, reason);
        }
        // The lowest node tells the others which run it is: it must know first.
        let (incarnation, address) = (inbound.hello.incarnation, inbound.hello.address.clone());
        match inbound.accept(self.welcome()) {
            Ok(stream) => self.connect_control(node, incarnation, address, stream),
            // The dialler tries again.
            Err(_) => Ok(()),
        }
    }

    pub(super) fn on_welcome(
        &mut self,
        node: NodeId,
        stream: TcpStream,
        welcome: Welcome,
    ) -> Result<()> {
        if self.run.is_none()
            && let RunSource::Told(open) = &self.setup.run
            && let Some(location) = &welcome.register
        {
            let run = open(location)?;
            if run.id != welcome.run {
                return Err(Error::new(
                    Kind::Register,
                    format!(
                        "register {location} holds run {}, but node {node} is in run {}: the \
                         directory must be the same one for all nodes (see --register)",
                        run.id, welcome.run
                    ),
                ));
            }
            self.join_run(run)?;
        }
        let address = self.setup.nodes.get(&node).cloned().unwrap_or_default();
        self.connect_control(node, welcome.incarnation, address, stream)
    }

    pub(super) fn connect_control(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        address: String,
        stream: TcpStream,
    ) -> Result<()> {
        let events = self.events.clone();
        let on_event = move |event| drop(events.send(NodeEvent::Control { node, event }));
        let connection = ControlConnection::start(stream, node, ControlLimits::default(), on_event);
        let connection = connection.map_err(|error| {
            Error::new(Kind::Network, format!("cannot talk to node {node}")).because(error)
        })?;
        self.controls.insert(node, (incarnation, connection));
        self.step(Input::PeerUp { node, incarnation, address })
    }

    pub(super) fn refuse(&mut self, inbound: Inbound, reason: Refusal) -> Result<()> {
        if self.setup.strangers.is_told(reason.kind()) {
            self.tell(What::Refused {
                peer: inbound.peer_addr.to_string(),
                reason: self.identity().explain(&reason, &inbound.hello),
                more: 0,
            });
        }
        // Whether the stranger hears it or not changes nothing here.
        let _ = inbound.refuse(reason);
        Ok(())
    }

    /// Tells how many more strangers there were than were told one by one.
    pub(super) fn tell_strangers(&self, is_end: bool) {
        for (kind, more) in self.setup.strangers.counted(is_end) {
            let (peer, reason) = (String::new(), kind.to_owned());
            self.tell(What::Refused { peer, reason, more });
        }
    }

    pub(super) fn dial_failed(&self, node: NodeId, error: DialError) -> Error {
        Error::new(Kind::Network, format!("cannot connect to node {node}")).because(error)
    }

    /// Tells that a node which was there has ended before the first view.
    pub(super) fn tell_gone_early(&self, node: NodeId) {
        let left = self.setup.config.connect_limit.saturating_sub(self.started.elapsed());
        let text = format!(
            "node {node} has ended before the first view: it may be started again within {} s",
            left.as_secs()
        );
        self.tell(What::Message { text });
    }

    pub(super) fn not_formed(&self) -> Error {
        let missing: Vec<NodeId> = self
            .setup
            .nodes
            .keys()
            .filter(|&&node| node != self.setup.node && !self.controls.contains_key(&node))
            .copied()
            .collect();
        let limit_ms = self.setup.config.connect_limit.as_millis();
        let text = if missing.is_empty() {
            format!("there was no first view after {limit_ms} ms though all nodes are connected")
        } else {
            format!("{} did not connect within {limit_ms} ms", named_nodes(&missing))
        };
        Error::new(Kind::Network, text)
    }
}
