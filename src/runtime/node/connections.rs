//! Connections: those of control, and who is let in.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use ringfence_operators::ids::{Incarnation, NodeId, named_nodes};

use super::{Node, NodeEvent};
use crate::config::PROCESSES_MAX;
use crate::error::{Error, Kind, Result};
use crate::network::{
    ControlConnection, ControlLimits, DialError, Hello, Identity, Inbound, Purpose, Refusal,
    Welcome, dial,
};
use crate::protocol::message::Input;
use crate::report::What;

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
            // The answer is all that it wants.
            Purpose::Find => {
                drop(inbound.accept(self.welcome()));
                Ok(())
            }
            Purpose::Data { view, digest } => self.on_inbound_data(inbound, view, &digest),
        }
    }

    pub(super) fn on_inbound_control(&mut self, inbound: Inbound) -> Result<()> {
        let node = inbound.hello.node;
        // The higher one of two calls, except that who joins calls all whom it knows from the newest view.
        let may_call = node > self.setup.node || inbound.hello.to_incarnation.is_some();
        if !may_call || node == self.setup.node || !self.setup.nodes.contains_key(&node) {
            return self.refuse(inbound, Refusal::NotAMember { node });
        }
        match self.controls.get(&node).map(|(known, _)| *known) {
            Some(known) if known == inbound.hello.incarnation => {
                return self.refuse(inbound, Refusal::AlreadyConnected { node });
            }
            Some(known) if known > inbound.hello.incarnation => {
                return self.refuse(inbound, Refusal::Restarted { node });
            }
            Some(_) => self.forget(node)?,
            None => {}
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
        if self.run.is_none() {
            self.learn_run(&welcome)?;
        }
        // Both may have called.
        if self.controls.get(&node).is_some_and(|(known, _)| *known >= welcome.incarnation) {
            return Ok(());
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
        let on_event =
            move |event| drop(events.send(NodeEvent::Control { node, incarnation, event }));
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
        if self.current.is_some() || self.is_joining() {
            return;
        }
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
