//! Telling: what happened, for people and for files.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ringfence_operators::error::JobError;
use ringfence_operators::fence::generation::Notice;
use ringfence_operators::ids::{Epoch, ViewNumber};
use ringfence_operators::verbs::sink::RELEASE_LIMIT;

use super::Node;
use crate::error::Result;
use crate::protocol::message::Input;
use crate::report::What;
use crate::runtime::witness;

/// How often it is told again that the register does not answer.
const REGISTER_TOLD_INTERVAL: Duration = Duration::from_secs(10);

impl Node {
    pub(super) fn on_notice(&mut self, view: ViewNumber, notice: Notice) -> Result<()> {
        let now = Instant::now();
        let Some(current) = self.current.as_mut().filter(|_| self.present.is(view)) else {
            return Ok(());
        };
        let has_caught_up = current.catch_up.note(&notice);
        let mut committed = None;
        if let Notice::Committed { epoch } = notice
            && Some(epoch) > current.committed
        {
            current.committed = Some(epoch);
            committed = Some(epoch);
            // The end of everything is not an epoch that anybody would know.
            if epoch != Epoch::END {
                self.commits += 1;
                self.tell(What::Commit { view, epoch });
            }
            self.durable_committed(epoch)?;
        }
        if let Notice::Built { worker } = notice {
            self.on_built(view, worker)?;
        }
        if let Notice::Dropped { worker, dataflow, by_all } = notice {
            self.on_dropped(view, worker, dataflow, by_all);
        }
        match &notice {
            Notice::Quarantined { operator, partition, epoch, record } => {
                self.tell(What::Quarantined {
                    operator: operator.to_string(),
                    partition: *partition,
                    epoch: *epoch,
                    record: record.clone(),
                });
            }
            Notice::ReleaseFailed { operator, epoch, why } => {
                let limit_s = RELEASE_LIMIT.as_secs();
                let text = format!(
                    "sink \"{operator}\" could not release epoch {epoch} ({why}): retrying for \
                     up to {limit_s} s"
                );
                self.tell(What::Message { text });
                let error = JobError::Sink { operator: operator.clone(), what: why.clone() };
                let mut seen = witness::of_job_error(self.setup.node, view, &error);
                seen.place.epoch = Some(*epoch);
                self.observe(Some(seen));
            }
            Notice::DropPanicked { operator, message } => {
                let of =
                    operator.as_ref().map_or("the job".to_owned(), |name| format!("\"{name}\""));
                let text = format!("a `Drop` of {of} panicked, which changes nothing: {message}");
                self.tell(What::Message { text });
            }
            Notice::ReleaseRecovered { operator, failed_for } => {
                let failed_ms = failed_for.as_millis();
                let text = format!("sink \"{operator}\" releases again, after {failed_ms} ms");
                self.tell(What::Message { text });
            }
            _ => {}
        }
        if let Some(current) = &self.current
            && let Some(recovered) = self.recovery.note(view, &notice, &current.catch_up, now)
        {
            self.tell(recovered);
        }
        if has_caught_up {
            self.step(Input::CaughtUp { view })?;
        }
        match committed {
            Some(epoch) => self.step(Input::Committed { view, epoch }),
            None => Ok(()),
        }
    }

    pub(super) fn tell(&self, what: What) {
        (self.setup.tell)(what);
    }

    /// Tells that the register is waited for: at once, and then now and again.
    pub(super) fn tell_register_away(&mut self, why: &str) {
        let now = Instant::now();
        let since = match self.register_away {
            Some((_, told)) if now.duration_since(told) < REGISTER_TOLD_INTERVAL => return,
            Some((since, _)) => since,
            None => now,
        };
        self.register_away = Some((since, now));
        let waited = match now.duration_since(since).as_secs() {
            0 => String::new(),
            seconds => format!(" for {seconds} s"),
        };
        let text = format!("the register does not answer{waited}, trying again: {why}");
        self.tell(What::Message { text });
    }

    /// Tells that the register has answered after it had not.
    pub(super) fn tell_register_back(&mut self) {
        if let Some((since, _)) = self.register_away.take() {
            let away_ms = since.elapsed().as_millis();
            let text = format!("the register answers again, after {away_ms} ms");
            self.tell(What::Message { text });
        }
    }

    pub(super) fn tell_progress(&self) {
        if self.running().is_some() {
            self.tell(What::Progress {
                consumed: self.gauges.consumed.load(Ordering::Relaxed),
                total: self.gauges.total.load(Ordering::Relaxed),
                records: self.gauges.records.load(Ordering::Relaxed),
            });
        }
    }
}
