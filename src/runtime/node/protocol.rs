//! Protocol: what the machine is told, and how what it decides is carried out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfence_operators::ids::{NodeId, ViewNumber, named_nodes};

use super::{Node, NodeEvent, Run, Tier};
use crate::error::{Error, Kind, Result};
use crate::network::ControlSendError;
use crate::protocol::member::{Machine, MemberConfig, MemberLimits};
use crate::protocol::message::{Event as Decision, Input, Output, ProtocolError, Suspicion};
use crate::protocol::ranges::Ranges;
use crate::report::{Observation, What};
use crate::runtime::generation::Running;
use crate::runtime::registrar::Registrar;
use crate::runtime::witness;
use crate::runtime::wording::{protocol_failed, register_failed};

/// A loop that stood still for longer was not merely busy.
const STALL_LIMIT: Duration = Duration::from_millis(500);

impl Node {
    pub(super) fn join_run(&mut self, run: Run) -> Result<()> {
        let done = run.register.done().map_err(register_failed)?;
        let address = self.setup.nodes.get(&self.setup.node).cloned().unwrap_or_default();
        self.machine = Some(Machine::new(MemberConfig {
            run: run.id.clone(),
            node: self.setup.node,
            incarnation: self.incarnation,
            address,
            nodes: self.setup.nodes.keys().copied().collect(),
            is_restart: self.setup.is_restart,
            workers_per_node: self.setup.config.workers as u32,
            partitions: self.setup.config.partitions,
            backups: self.setup.config.backup_count() as u32,
            durable: self.tier.as_ref().map(Tier::found),
            limits: MemberLimits {
                reach_limit_ms: self.setup.config.connect_limit.as_millis() as u64,
                plan_wait_ms: self.setup.config.plan_wait().as_millis() as u64,
                stop_limit_ms: self.setup.config.hang_limit.as_millis() as u64,
                views_without_commit_max: self.setup.config.views_without_commit_max,
                restarts_max: self.setup.config.restarts.0,
                restarts_window_ms: self.setup.config.restarts.1.as_millis() as u64,
                ..MemberLimits::from_suspect_ms(self.setup.config.suspect_limit.as_millis() as u64)
            },
        }));
        let events = self.events.clone();
        let answered = move |reply| drop(events.send(NodeEvent::Register(reply)));
        self.registrar =
            Some(Registrar::start(Arc::clone(&run.register), run.id.clone(), answered));
        self.run = Some(run);
        self.step(Input::Started { done })?;
        for input in std::mem::take(&mut self.early) {
            self.step(input)?;
        }
        Ok(())
    }

    /// Hands an input to the protocol and carries out what it answers, to the end.
    pub(super) fn step(&mut self, input: Input) -> Result<()> {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let now_ms = self.now_ms();
            let Some(machine) = &mut self.machine else {
                self.early.push(input);
                continue;
            };
            for output in machine.handle(now_ms, input) {
                // A reply never comes before the rest of what was asked for.
                inputs.extend(self.carry_out(output)?);
            }
        }
        Ok(())
    }

    pub(super) fn carry_out(&mut self, output: Output) -> Result<Option<Input>> {
        use ControlSendError::{Encode, TooLong};
        match output {
            Output::Send(node, message) => {
                if let Some((_, connection)) = self.controls.get(&node) {
                    // A lost connection reports itself; what cannot be said at all, nobody else does.
                    if let Err(error @ (TooLong { .. } | Encode(_))) = connection.send(&message) {
                        let what = format!("cannot tell node {node} what it must know");
                        return Err(Error::internal(what).because(error));
                    }
                }
            }
            Output::Propose(_) | Output::ReadView(_) | Output::MarkDone(_) => {
                // The machine that asks is made when the register is known.
                if let Some(registrar) = &self.registrar {
                    registrar.ask(output);
                }
            }
            Output::Connect { node, incarnation, address } => {
                self.connect_to(node, incarnation, address);
            }
            Output::Install(view) => self.install(view)?,
            Output::StopGeneration { view } => return Ok(self.stop_generation(view)),
            Output::Report(decision) => self.on_decision(decision),
            Output::Finish => self.end = Some(Ok(())),
            Output::Fail(error) => {
                self.testify(&error);
                let own = matches!(error, ProtocolError::Local { .. });
                let job_error = self.job_error.take().filter(|_| own);
                let error = job_error.unwrap_or_else(|| protocol_failed(error));
                let is_kept = error.kind() == Kind::Lost && self.tier.is_some();
                let note = "what is durable is kept: the same command goes on from there";
                self.end = Some(Err(if is_kept { error.noting(note) } else { error }));
            }
        }
        Ok(None)
    }

    /// The time as the protocol counts it.
    pub(super) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    pub(super) fn on_decision(&mut self, decision: Decision) {
        let now = Instant::now();
        match decision {
            Decision::Suspicion { view, what } => {
                self.recovery.suspected(now);
                let here = self.setup.node;
                let is_refused = matches!(
                    what,
                    Suspicion::ConnectFailed { node, .. } if self.refused_by == Some(node)
                );
                let workers = self.running().map_or_else(Vec::new, |r| r.shared.whereabouts());
                let seen = witness::of_suspicion(here, view, &what, is_refused, &workers);
                let told = self.failures.suspect(here, &what, seen);
                told.into_iter().for_each(|what| self.tell(what));
            }
            Decision::Planned { view, why } => self.tell_planned(view, &why),
            Decision::Joining { view } => {
                let text = format!("the run has view {view} already: asking to be taken in");
                self.tell(What::Message { text });
            }
            Decision::Silent { node, silent_ms } => {
                self.tell(What::Suspicion { suspect: node, silent_ms });
            }
            Decision::HeardAgain { node, silent_ms } => {
                self.tell(What::Cleared { suspect: node, silent_ms });
            }
            Decision::Stopped { .. } => self.recovery.stopped(now),
            Decision::ViewAgreed {
                number,
                resume,
                members,
                joined,
                moved,
                under_replicated,
                ..
            } => {
                self.recovery.agreed(now);
                self.failures.agree().into_iter().for_each(|what| self.tell(what));
                let takeovers = self.takeovers(&moved);
                self.tell(What::View {
                    number,
                    members,
                    resume,
                    moved_partitions: moved.len() as u32,
                    under_replicated: under_replicated.len() as u32,
                    joined,
                    takeovers,
                });
            }
            Decision::Waiting { missing, .. } => {
                let text = format!(
                    "waiting for {}: without what they hold no view can be made",
                    named_nodes(&missing)
                );
                self.tell(What::Message { text });
            }
            Decision::WaitingForWorkers { nodes, partitions, .. } => {
                let text = format!(
                    "waiting for workers of {} to come back from the job's own code, for up to {} s: \
                     only they have the state of partitions {}",
                    named_nodes(&nodes),
                    self.setup.config.hang_limit.as_secs(),
                    Ranges(&partitions)
                );
                self.tell(What::Message { text });
            }
            Decision::RegisterUnavailable { why } => {
                self.tell_register_away(&why);
                if !std::mem::replace(&mut self.register_told, true) {
                    self.observe(Some(witness::of_register(self.setup.node, self.view(), why)));
                }
            }
            Decision::Running { .. } | Decision::Finishing { .. } => {}
        }
    }

    /// A view ends on purpose: whoever planned it says so.
    fn tell_planned(&mut self, view: ViewNumber, why: &str) {
        self.failures.explain();
        let planner = self.present.view().and_then(|view| view.members.first());
        if planner.is_some_and(|planner| planner.node == self.setup.node) {
            self.tell(What::Message { text: format!("view {view} ends on purpose: {why}") });
        }
    }

    /// Tells what the error with which this node ends shows of a failure.
    pub(super) fn testify(&self, error: &ProtocolError) {
        let (here, view) = (self.setup.node, self.view());
        let stalled = (self.stalled >= STALL_LIMIT).then_some(self.stalled.as_millis() as u64);
        self.observe(witness::of_protocol_error(here, view, error, stalled));
        if let ProtocolError::StopLimit { limit_ms, .. } = error
            && let Some(running) = self.running()
        {
            for worker in running.shared.whereabouts() {
                if !self.present.has_ended(worker.worker()) {
                    self.observe(Some(witness::of_hung_worker(here, view, &worker, *limit_ms)));
                }
            }
        }
    }

    pub(super) fn observe(&self, seen: Option<Observation>) {
        seen.into_iter().for_each(|seen| self.tell(What::Observed(Box::new(seen))));
    }

    /// The number of the present view; 0 before the first.
    pub(super) fn view(&self) -> ViewNumber {
        self.present.number()
    }

    /// The generation of the present view, once it was started.
    pub(super) fn running(&self) -> Option<&Running> {
        self.generations.get(&self.present.number())
    }

    /// The other members of the present view.
    pub(super) fn others(&self) -> impl Iterator<Item = NodeId> + '_ {
        let members = self.present.view().into_iter().flat_map(|view| &view.members);
        members.map(|member| member.node).filter(|node| *node != self.setup.node)
    }
}
