//! Hosting: what the loop of a real node does, for a simulated process.
//!
//! The protocol's outputs are carried out here, and what happens becomes its inputs, in the same order
//! as in `runtime/node.rs`; only threads, sockets and files are not there.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use ringfence_operators::fence::generation::{Generation, Notice, Observer, Settings};
use ringfence_operators::hash::KeyHasher;
use ringfence_operators::ids::{NodeId, PartitionId, ViewNumber};
use ringfence_operators::vault::Vault;
use ringfence_operators::worker::{FencedWorker, WorkerEnd};
use timely::WorkerConfig;

use super::faults::Fault;
use super::job;
use super::plant::Plant;
use super::process::{End, ProcessId, Running};
use super::wire;
use super::words;
use super::world::{Happening, RUN, World};
use ringfence::internals::holdings::{evidence_of, role_of, routes_of};
use ringfence::internals::protocol::invariants::{first, successor};
use ringfence::internals::protocol::message::{
    Event, Input, Message, Output, RegisterReply, WorkerPanic,
};
use ringfence::internals::protocol::present::{Due, Standing};
use ringfence::internals::protocol::view::{CopyEvidence, Evidence, View};
use ringfence::internals::register::answer;

/// Keeps what workers tell, until their step is over.
#[derive(Default)]
pub(super) struct Notices(Mutex<Vec<Notice>>);

impl Notices {
    fn take(&self) -> Vec<Notice> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for Notices {
    fn notice(&self, notice: Notice) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(notice);
    }
}

/// The planted bug of a node that takes what its worker has not handed over for what it has.
fn count_live(evidence: &mut Evidence, awaited: &[PartitionId]) {
    for &partition in awaited {
        match evidence.copies.binary_search_by_key(&partition, |copy| copy.partition) {
            Ok(found) => evidence.copies[found].live = true,
            Err(place) => {
                let copy = CopyEvidence { partition, replica: None, live: true };
                evidence.copies.insert(place, copy);
            }
        }
    }
}

fn is_awaiting(output: &Output) -> bool {
    matches!(output, Output::Send(_, Message::Awaiting { .. }))
}

/// How far a slow node may stretch a step.
const SLOW_STEP_US_MAX: u64 = 20_000_000;

impl World {
    pub(super) fn happen(&mut self, id: ProcessId, happening: Happening) {
        match happening {
            Happening::Local(input) => self.feed(id, input),
            Happening::Control(input) => {
                let known = match &input {
                    Input::Message { from, .. } => self.alive(id).is_some_and(|process| {
                        process.controls.iter().any(|peer| peer.node == *from)
                    }),
                    _ => true,
                };
                if known {
                    self.feed(id, input);
                }
            }
            Happening::Tick => self.tick(id),
            Happening::Ask(question) => self.ask(id, question),
            Happening::Dial(dial) => self.on_dial(id, dial),
            Happening::Linked { peer, view } => self.on_linked(id, peer, view),
            Happening::NotLinked { peer, view, why } => self.on_not_linked(id, peer, view, why),
            Happening::Frames { from, view, bytes, sent } => {
                self.on_frames(id, from, view, bytes, sent);
            }
            Happening::LinkEnded { from, view } => self.on_link_ended(id, from, view),
            Happening::Step { view } => self.step(id, view),
            Happening::Joined { view } => self.on_joined(id, view),
            // The loop itself wakes who hung.
            Happening::Wake => {}
            Happening::Compact => self.compact(id),
            Happening::CloseLate { view } => {
                if let Some(process) = self.alive(id) {
                    process.vault.close(view);
                }
            }
            Happening::StopLate { view } => {
                if let Some(running) = self.alive(id).and_then(|p| p.generations.get(&view)) {
                    running.generation.stop();
                    self.schedule_step(id, view, 0);
                }
            }
        }
    }

    fn tick(&mut self, id: ProcessId) {
        let now_ms = self.now_us / 1_000;
        let Some(process) = self.alive(id) else { return };
        if process.wake_at_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            process.wake_at_ms = None;
        }
        let due = process.present.due(now_ms);
        if due == Some(Due::Grow) {
            process.gave_up_in = Some(process.present.number());
        }
        if let Some(due) = due
            && let Some(input) = self.testimony(id, due)
        {
            self.feed(id, input);
        }
        let Some(process) = self.alive(id) else { return };
        if process.machine.next_deadline().is_some_and(|at_ms| at_ms <= now_ms) {
            self.feed(id, Input::Tick);
        } else {
            self.wake_in_time(id);
        }
    }

    /// Hands an input to the protocol and carries out what it answers, to the end.
    pub(super) fn feed(&mut self, id: ProcessId, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let now_ms = self.now_us / 1_000;
            if words::is_worth_telling(&input) {
                let word = words::word_of(&input);
                self.note(Some(id.node), "in", word, |_| words::of_input(&input));
            }
            let Some(process) = self.alive(id) else { return };
            let before = process.machine.view().map(|view| view.number);
            let mut outputs = process.machine.handle(now_ms, input);
            let installed = process.machine.view().filter(|view| Some(view.number) != before);
            if let Some(view) = installed.cloned() {
                let held = self.believed.believe(&view);
                self.witness.check("agreement", held);
            }
            if self.plant == Some(Plant::AwaitingFirst) {
                outputs.sort_by_key(|output| !is_awaiting(output));
            }
            for output in outputs {
                inputs.extend(self.carry_out(id, output));
            }
        }
        self.wake_in_time(id);
    }

    /// Sees to it that the protocol is woken when it wants to be.
    fn wake_in_time(&mut self, id: ProcessId) {
        let now_ms = self.now_us / 1_000;
        let Some(process) = self.alive(id) else { return };
        let deadlines = [process.machine.next_deadline(), process.present.next_deadline()];
        let Some(deadline_ms) = deadlines.into_iter().flatten().min() else { return };
        let at_ms = deadline_ms.max(now_ms + 1);
        if process.wake_at_ms.is_none_or(|known| known > at_ms || known <= now_ms) {
            process.wake_at_ms = Some(at_ms);
            self.at(at_ms * 1_000, id, Happening::Tick);
        }
    }

    fn carry_out(&mut self, id: ProcessId, output: Output) -> Option<Input> {
        if self.plant == Some(Plant::AwaitingUnsaid) && is_awaiting(&output) {
            return None;
        }
        match output {
            Output::Send(to, message) => self.send_message(id, to, message),
            Output::Propose(_) | Output::ReadView(_) | Output::MarkDone(_) => {
                let delay_us = self.register_delay_us(id);
                self.after(delay_us, id, Happening::Ask(output));
            }
            Output::Connect { node, incarnation, .. } => self.connect_to(id, node, incarnation),
            Output::Install(view) => self.install(id, view),
            Output::StopGeneration { view } => return self.stop_generation(id, view),
            Output::Report(event) => self.on_report(id, event),
            Output::Finish => self.end(id, End::Finished),
            Output::Fail(error) => self.end(id, End::Failed(error)),
        }
        None
    }

    fn on_report(&mut self, id: ProcessId, event: Event) {
        if let Event::Stopped { view, .. } = event {
            let held = self.witness.lock().conduct.gives_evidence(id.who(), view);
            self.witness.check("evidence", held);
            self.recoveries.insert(view);
        }
        match &event {
            Event::Suspicion { view, what } => self.tell_suspicion(id, *view, what),
            Event::Planned { view, .. } => {
                self.planned.insert(*view);
                if let Some(process) = self.alive(id) {
                    process.failures.explain();
                }
            }
            Event::ViewAgreed { number, moved, .. } => self.tell_view(id, *number, moved.len()),
            _ => {}
        }
        self.note(Some(id.node), "report", 0, |_| words::of_event(&event));
    }

    // The register.

    fn register_delay_us(&mut self, id: ProcessId) -> u64 {
        if self.register_slow_until_us > self.now_us {
            self.fired(Fault::RegisterSlow, Some(id.node), String::new);
            return self.chance.below(1_500_000);
        }
        self.chance.below(5_000)
    }

    fn ask(&mut self, id: ProcessId, question: Output) {
        let fate = if self.faults { self.chance.below(40) } else { u64::MAX };
        let lost = |why: &str| RegisterReply::Unavailable { why: why.to_owned() };
        let reply = match fate {
            0 => {
                self.fired(Fault::RegisterFails, Some(id.node), String::new);
                lost("injected fault: the register fails")
            }
            1 => {
                self.answer(id, question);
                self.fired(Fault::RegisterLosesAnswer, Some(id.node), String::new);
                lost("injected fault: the answer is lost")
            }
            _ => self.answer(id, question),
        };
        let delay_us = self.register_delay_us(id);
        self.after(delay_us, id, Happening::Local(Input::Register(reply)));
    }

    fn answer(&mut self, id: ProcessId, mut question: Output) -> RegisterReply {
        if let Output::Propose(view) = &mut question {
            self.spoil(id, view);
        }
        if let Some(reply) = self.misread(&question) {
            return reply;
        }
        let reply = answer(&self.register, RUN, &question);
        if let (Output::Propose(view), Some(RegisterReply::Created { number })) =
            (&question, &reply)
        {
            let held = match self.views.get(&ViewNumber(number.0 - 1)) {
                Some(previous) => successor(previous, view),
                None => first(view),
            };
            self.witness.check("view", held);
            let held = self.witness.lock().conduct.creates(view);
            self.witness.check("released epochs stay", held);
            let held = self.believed.believe(view);
            self.witness.check("agreement", held);
            let (number, resume) = (view.number, view.resume);
            let members: Vec<u64> = view.members.iter().map(|member| member.node.0).collect();
            self.views.insert(number, view.clone());
            self.note(Some(id.node), "VIEW", number.0, |_| {
                format!("view {number} is created: nodes {members:?}, resumes after {resume:?}")
            });
        }
        // Every question that gets here is one to the register.
        reply.unwrap_or(RegisterReply::Unavailable { why: "no question".to_owned() })
    }

    // Views and generations.

    fn install(&mut self, id: ProcessId, view: View) {
        let number = view.number;
        let Some(process) = self.alive(id) else { return };
        let role = |partition| role_of(&view, id.node, partition);
        if let Err(error) = process.vault.install(number, view.resume, &role) {
            return self.violate(format!("the vault of node {} refuses a view: {error}", id.node));
        }
        let waiting = process.present.install(view);
        process.generations.retain(|view, _| process.present.hosts(*view));
        self.dial_lower(id);
        for dial in waiting {
            self.on_dial(id, dial);
        }
        self.start_if_linked(id);
    }

    /// Makes the worker once all data connections stand.
    pub(super) fn start_if_linked(&mut self, id: ProcessId) {
        let clock = self.clock();
        let settings = Settings {
            hasher: KeyHasher::default(),
            epoch_interval: self.shape.epoch_interval,
            checkpoint_interval: self.shape.checkpoint_interval,
            in_flight_epochs_max: self.shape.in_flight_epochs_max,
            run: RUN.to_owned(),
            workers_per_node: 1,
            share_count: self.shape.nodes as u32,
            refill_bytes_per_second: self.shape.refill_bytes_per_second,
            piece_bytes: self.shape.piece_bytes,
            durable: None,
        };
        let Some(process) = self.alive(id) else { return };
        let Some(links) = process.present.start() else { return };
        let Some(present) = process.present.view() else { return };
        let view = present.number;
        let notices = Arc::new(Notices::default());
        let generation = Generation::new(
            view,
            present.resume,
            routes_of(present),
            settings,
            Arc::clone(&process.vault) as Arc<dyn Vault>,
            clock,
            Arc::clone(&notices) as Arc<dyn Observer>,
            Arc::clone(&process.gauges),
        );
        let generation = Arc::new(generation.watching(process.machine.watched().clone()));
        let index = present.process_index(id.node).unwrap_or(0);
        let (allocator, wire, idle) = match wire::allocator(index, present.members.len()) {
            Ok(made) => made,
            Err(error) => return self.violate(format!("no allocator can be made: {error}")),
        };
        let (mut linked, mut over) = (BTreeSet::new(), Vec::new());
        for (from, (member, early)) in present.members.iter().zip(links).enumerate() {
            let Some(early) = early else { continue };
            linked.insert(member.node);
            early.frames.into_iter().for_each(|bytes| wire.deliver(from, bytes));
            over.extend(early.is_over.then_some(member.node));
        }
        let worker = FencedWorker::new(allocator, WorkerConfig::default(), &generation);
        let mut running = Running::new(worker, wire, generation, notices, linked, idle);
        let mut filling = present.assignment.places.iter().flat_map(|place| &place.filling);
        running.is_filling = filling.any(|worker| worker.node == id.node);
        process.generations.insert(view, running);
        for from in over {
            self.after(0, id, Happening::LinkEnded { from, view });
        }
        let delay_us = self.chance.below(5_000);
        self.schedule_step(id, view, delay_us);
        self.feed(id, Input::GenerationRunning { view });
    }

    /// Lets the worker run after `delay_us`, or earlier if it is to.
    pub(super) fn schedule_step(&mut self, id: ProcessId, view: ViewNumber, delay_us: u64) {
        let now_us = self.now_us;
        let Some(process) = self.alive(id) else { return };
        let slow = if process.slow_until_us > now_us { 20 } else { 1 };
        let Some(running) = process.generations.get_mut(&view).filter(|r| r.has_worker()) else {
            return;
        };
        // A slow node whose sink is slow as well must not take longer than the run has time to end.
        let at_us = now_us + (delay_us * slow).min(delay_us.max(SLOW_STEP_US_MAX));
        if running.step_at_us.is_none_or(|known| known > at_us) {
            running.step_at_us = Some(at_us);
            self.at(at_us, id, Happening::Step { view });
        }
    }

    fn step(&mut self, id: ProcessId, view: ViewNumber) {
        let (now_us, plan) = (self.now_us, Arc::new(self.shape.job.clone()));
        let (target, outside) = (self.target.clone(), self.outside.clone());
        let running = self.alive(id).and_then(|process| process.generations.get_mut(&view));
        // It was to run earlier, and has.
        let Some(running) = running.filter(|r| r.step_at_us.is_some_and(|at_us| at_us <= now_us))
        else {
            return;
        };
        running.step_at_us = None;
        let was_built = std::mem::replace(&mut running.built, true);
        let Some(worker) = running.worker() else { return };
        let stepped = if was_built {
            running.step()
        } else {
            worker
                .build(|worker| job::build(worker, &plan, &target, &outside, id))
                .map(|program| running.program = program)
                .map(|()| true)
                .map_err(WorkerEnd::without_result)
        };
        let is_active = !was_built || running.worker().is_some_and(|worker| worker.is_active());
        self.tell_notices(id, view);
        self.tell_refilled(id, view);
        self.send_frames(id, view);
        let (crashed, spent_us) = {
            let mut witness = self.witness.lock();
            (witness.crashed.remove(&id), std::mem::take(&mut witness.spent_us))
        };
        if crashed {
            self.fired(Fault::CrashInside, Some(id.node), String::new);
            return self.crash(id);
        }
        match stepped {
            Ok(true) if is_active => {
                let delay_us = spent_us + 500 + self.chance.below(self.shape.pace_us);
                self.schedule_step(id, view, delay_us);
            }
            Ok(true) => {}
            Ok(false) => self.on_worker_end(id, view, WorkerEnd::Finished(())),
            Err(end) => self.on_worker_end(id, view, end),
        }
    }

    fn tell_notices(&mut self, id: ProcessId, view: ViewNumber) {
        let running = self.alive(id).and_then(|process| process.generations.get_mut(&view));
        let Some(running) = running else { return };
        let notices = running.notices.take();
        let catch_up = &mut running.catch_up;
        if notices.iter().filter(|notice| catch_up.note(notice)).count() > 0 {
            self.after(0, id, Happening::Local(Input::CaughtUp { view }));
        }
        for notice in notices {
            match notice {
                Notice::Committed { epoch } => {
                    self.events_at_commit = self.events;
                    self.after(0, id, Happening::Local(Input::Committed { view, epoch }));
                    self.tell_commit(id, view);
                    self.note(Some(id.node), "commit", epoch.0, |_| {
                        format!("epoch {epoch} is committed in view {view}")
                    });
                }
                // What it took is real time, and has no place in a trace.
                Notice::Restored { operator, rewound, opened, .. } => {
                    self.note(Some(id.node), "restore", opened as u64, |_| {
                        format!("{operator}: {rewound} partitions rewound, {opened} opened")
                    });
                }
                other => self.note(Some(id.node), "notice", 0, |_| format!("{other:?}")),
            }
        }
    }

    fn tell_refilled(&mut self, id: ProcessId, view: ViewNumber) {
        let Some(process) = self.alive(id) else { return };
        let vault = Arc::clone(&process.vault);
        let running = process.generations.get_mut(&view).filter(|running| running.is_filling);
        if let Some(running) = running
            && vault.filling() == 0
        {
            running.is_filling = false;
            self.after(0, id, Happening::Local(Input::Refilled { view }));
        }
    }

    fn on_worker_end(&mut self, id: ProcessId, view: ViewNumber, end: WorkerEnd<()>) {
        let words = match &end {
            WorkerEnd::Panicked(panic) => format!("panicked: {}", panic.message),
            WorkerEnd::Failed(error) => format!("failed: {error}"),
            other => format!("{other:?}"),
        };
        self.note(Some(id.node), "worker", 0, |_| format!("of view {view}: {words}"));
        if let WorkerEnd::Panicked(panic) = &end
            && panic.message == job::UPDATE_PANIC
        {
            self.fired(Fault::UpdatePanic, Some(id.node), String::new);
        }
        let Some(process) = self.alive(id) else { return };
        if let Some(running) = process.generations.get_mut(&view) {
            running.tear_down();
        }
        let has_finished = matches!(end, WorkerEnd::Finished(()));
        let departure = process.present.worker_ended(view, 0, has_finished);
        if departure.is_last {
            let delay_us = 50 + self.chance.below(5_000);
            self.after(delay_us, id, Happening::Joined { view });
        }
        match departure.standing {
            Standing::InTime => {}
            Standing::Late => return self.testify(id, Due::Grow),
            Standing::Over => return,
        }
        if has_finished {
            self.send_frames(id, view);
        }
        if has_finished && self.plant == Some(Plant::ExitEarly) {
            return self.end(id, End::Finished);
        }
        let input = match end {
            WorkerEnd::Finished(()) => Some(Input::GenerationFinished { view }),
            WorkerEnd::Stopped => None,
            WorkerEnd::Damaged(error) => {
                let message = format!("it stopped itself: {error}");
                let panic = WorkerPanic { message, ..WorkerPanic::default() };
                Some(Input::WorkerPanicked { view, panic })
            }
            WorkerEnd::Panicked(panic) => Some(Input::WorkerPanicked { view, panic }),
            WorkerEnd::Failed(error) => {
                self.violate(format!("the job of node {} failed: {error}", id.node));
                None
            }
        };
        if let Some(input) = input {
            self.feed(id, input);
        }
    }

    fn on_joined(&mut self, id: ProcessId, view: ViewNumber) {
        let Some(process) = self.alive(id) else { return };
        let due = process.present.joined(view);
        process.generations.retain(|view, _| process.present.hosts(*view));
        match due {
            Some(due) => self.testify(id, due),
            // There may be room for another that is closed early.
            None => self.wake_in_time(id),
        }
    }

    fn stop_generation(&mut self, id: ProcessId, view: ViewNumber) -> Option<Input> {
        let goes_on = match self.plant {
            Some(Plant::EvidenceBeforeStop) => Some(400_000),
            Some(Plant::NoPromise) => Some(u64::MAX),
            _ => None,
        };
        if let Some(delay_us) = goes_on {
            return self.stop_later(id, view, delay_us);
        }
        self.close_links(id);
        let is_hung = self.alive(id)?.worker_hung_until_us > self.now_us;
        // One that hangs has a full queue, which is where coming late does harm.
        let is_deaf = self.faults && self.chance.one_in(if is_hung { 2 } else { 4 });
        let now_ms = self.now_us / 1_000;
        let process = self.alive(id)?;
        let due = process.present.stop(now_ms, view);
        if let Some(running) = process.running() {
            if is_deaf {
                self.stop_deaf(id, view);
            } else {
                running.generation.stop();
                let delay_us = 20 + self.chance.below(3_000);
                self.schedule_step(id, view, delay_us);
            }
        }
        self.testimony(id, due?)
    }

    /// A worker goes on for a while as if nothing had happened.
    ///
    /// A real one leaves at the next activation of a protected operator, but its thread may stand still
    /// anywhere before that, and go on when its generation has long been closed. This one goes on with all
    /// that had come in when it was to leave.
    fn stop_deaf(&mut self, id: ProcessId, view: ViewNumber) {
        let now_us = self.now_us;
        let Some(process) = self.alive(id) else { return };
        let hangs_us = process.worker_hung_until_us.saturating_sub(now_us);
        let still_us = if self.chance.one_in(4) {
            hangs_us
        } else {
            let hand_over_us = 1_000 * self.shape.present_limits.hand_over_ms;
            hangs_us.max(hand_over_us + self.chance.below(500_000))
        };
        let deaf_us = still_us + self.chance.between(1_000, 2_000_000);
        self.fired(Fault::DeafWorker, Some(id.node), || format!("for {} ms", deaf_us / 1_000));
        self.after(deaf_us, id, Happening::StopLate { view });
        // Whatever it was to do before.
        let at_us = now_us + still_us;
        if let Some(running) = self.alive(id).and_then(|p| p.generations.get_mut(&view)) {
            running.step_at_us = Some(at_us);
            self.at(at_us, id, Happening::Step { view });
        }
    }

    fn testify(&mut self, id: ProcessId, due: Due) {
        if let Some(input) = self.testimony(id, due) {
            self.feed(id, input);
        }
    }

    /// Does what is due, and says what a process holds.
    fn testimony(&mut self, id: ProcessId, due: Due) -> Option<Input> {
        let plant = self.plant;
        let process = self.alive(id)?;
        let (view, vault) = (process.present.number(), Arc::clone(&process.vault));
        let is_late = due == Due::CloseEarly && plant == Some(Plant::EvidenceBeforeClose);
        if due != Due::Grow && !is_late {
            vault.close(view);
        }
        let testimony = process.present.testify(due, evidence_of(vault.inventory(), view));
        if is_late {
            self.after(1_000_000, id, Happening::CloseLate { view });
        }
        match testimony {
            Input::GenerationStopped { view, mut evidence, mut awaited }
                if plant == Some(Plant::AbandonedLiveCounted) =>
            {
                count_live(&mut evidence, &std::mem::take(&mut awaited));
                Some(Input::GenerationStopped { view, evidence, awaited })
            }
            // It has given everything already.
            Input::EvidenceGrown { .. } if plant == Some(Plant::AbandonedLiveCounted) => None,
            testimony => Some(testimony),
        }
    }

    /// The planted bugs of a node that gives evidence before its workers have stopped, or goes on.
    fn stop_later(&mut self, id: ProcessId, view: ViewNumber, delay_us: u64) -> Option<Input> {
        let now_ms = self.now_us / 1_000;
        let process = self.alive(id)?;
        let evidence = evidence_of(process.vault.inventory(), view);
        if !process.present.is_started() {
            process.present.stop(now_ms, view);
        } else if delay_us < u64::MAX {
            self.after(delay_us, id, Happening::StopLate { view });
        }
        Some(Input::GenerationStopped { view, evidence, awaited: Vec::new() })
    }

    fn compact(&mut self, id: ProcessId) {
        let delay_us = 20_000 + self.chance.below(200_000);
        let budget_bytes = self.chance.below(2_000) as usize;
        let Some(process) = self.alive(id) else { return };
        if let Err(error) = process.vault.compact(budget_bytes) {
            self.violate(format!("the vault of node {} cannot fold: {error}", id.node));
        }
        self.after(delay_us, id, Happening::Compact);
    }

    // The end of a process.

    /// Ends a process at once, with all that it holds.
    pub(super) fn crash(&mut self, id: ProcessId) {
        if self.alive(id).is_none() {
            return;
        }
        let views = self.views.keys().last().copied();
        let others: Vec<NodeId> = self.processes.keys().copied().collect();
        for node in others.into_iter().filter(|node| *node != id.node) {
            if self.chance.one_in(2) {
                self.lose_in_flight(id.node, node, None);
                self.lose_in_flight(id.node, node, views);
            }
        }
        self.end(id, End::Crashed);
    }

    pub(super) fn end(&mut self, id: ProcessId, end: End) {
        let words = match &end {
            End::Failed(error) => format!("failed: {error}"),
            end => format!("{end:?}"),
        };
        self.note(Some(id.node), "END", 0, |_| words);
        self.judge_end(id, &end);
        self.tell_end(id, &end);
        self.be_absent(id, &end);
        let Some(process) = self.alive(id) else { return };
        let controls: Vec<ProcessId> = process.controls.iter().copied().collect();
        self.close_links(id);
        for peer in controls {
            self.disconnect(id, peer, "end of file");
        }
        let Some(process) = self.alive(id) else { return };
        let left = std::mem::take(&mut process.generations);
        process.end = Some(end);
        drop(left);
    }
}
