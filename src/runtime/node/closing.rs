//! Closing: how a generation ends at this node, whatever its workers are doing.
//!
//! [`Present`](crate::protocol::present) says what is due. Here it is done with threads and the vault.

use ringfence_operators::ids::ViewNumber;

use super::{Node, NodeEvent};
use crate::error::Result;
use crate::protocol::message::Input;
use crate::protocol::present::Due;
use crate::report::What;
use crate::runtime::holdings::evidence_of;

impl Node {
    pub(super) fn stop_generation(&mut self, view: ViewNumber) -> Option<Input> {
        if self.stops_once_loaded() {
            return None;
        }
        let due = self.present.stop(self.now_ms(), view);
        if let Some(running) = self.generations.get(&view) {
            running.stop();
        }
        due.map(|due| self.testimony(due))
    }

    /// All threads of a generation are joined.
    pub(super) fn on_joined(&mut self, view: ViewNumber) -> Result<()> {
        let due = self.present.joined(view);
        self.generations.retain(|view, _| self.present.hosts(*view));
        due.map_or(Ok(()), |due| self.give_evidence(due))
    }

    /// Closes the present generation if its workers take too long to leave.
    pub(super) fn close_if_due(&mut self) -> Result<()> {
        let now_ms = self.now_ms();
        let Some(due) = self.present.due(now_ms) else { return Ok(()) };
        if due == Due::CloseEarly {
            self.tell_late(self.present.asked_since_ms(now_ms).unwrap_or(0));
        }
        self.give_evidence(due)
    }

    /// Joins the threads of a generation whose workers have all ended.
    pub(super) fn join_threads(&mut self, view: ViewNumber) {
        if let Some(running) = self.generations.get_mut(&view) {
            let events = self.events.clone();
            running.join(move || drop(events.send(NodeEvent::Joined { view })));
        }
    }

    pub(super) fn give_evidence(&mut self, due: Due) -> Result<()> {
        let testimony = self.testimony(due);
        self.step(testimony)
    }

    /// Does what is due, and says what this node holds.
    fn testimony(&self, due: Due) -> Input {
        let view = self.present.number();
        if due != Due::Grow {
            // From now on nothing that this node holds changes by what its workers do.
            self.vault.close(view);
        }
        self.present.testify(due, evidence_of(self.vault.inventory(), view))
    }

    fn tell_late(&self, waited_ms: u64) {
        let view = self.present.number();
        let Some(running) = self.running() else { return };
        for place in running.shared.whereabouts() {
            if self.present.has_ended(place.worker()) {
                continue;
            }
            let spot = place.spot();
            let place_text = match &spot.operator {
                Some(operator) => format!("in operator \"{operator}\""),
                None => "in the job's own code".to_owned(),
            };
            let text = format!(
                "worker {} has not left view {view} after {waited_ms} ms: it is {place_text}; the recovery \
                 does not wait for it unless nobody else has its state",
                place.worker()
            );
            self.tell(What::Message { text });
        }
    }
}
