//! What a worker builds: names, targets and states are admitted one by one, and held against what is
//! admitted already and against what the other workers build.
//!
//! Whatever does not fit ends the job before its first record.

use timely::dataflow::Scope;
use timely::progress::Timestamp;

use super::Fence;
use super::catalogue::Item;
use super::generation::Notice;
use super::origins::Unprotected;
use crate::error::JobError;
use crate::ids::OperatorName;
use crate::snapshot::operator_id;

/// The longest name of a protected operator, prefixes included.
pub const NAME_BYTES_MAX: usize = 1_024;

impl Fence {
    /// The names of the protected operators built so far.
    pub fn catalogue(&self) -> Vec<OperatorName> {
        self.inner.names.borrow().clone()
    }

    /// Admits a protected operator to the catalogue, built in `scope` by the verb `kind`; returns its full
    /// name.
    pub(crate) fn admit<T: Timestamp>(
        &self,
        kind: &str,
        name: &str,
        scope: Scope<'_, T>,
    ) -> OperatorName {
        let mut full = self.inner.prefix.borrow().clone();
        full.push(name.to_owned());
        let full = full.join("/");
        if name.is_empty() {
            let what = "is empty: a name is the identity of an operator's state".to_owned();
            self.fail(JobError::BadName { name: OperatorName::new(&full), what });
        }
        if full.len() > NAME_BYTES_MAX {
            let what = format!("has {} bytes, and at most {NAME_BYTES_MAX} may be", full.len());
            let begin: String = full.chars().take(40).chain("..".chars()).collect();
            self.fail(JobError::BadName { name: OperatorName::new(&begin), what });
        }
        let name = OperatorName::new(&full);
        if self.inner.names.borrow().contains(&name) {
            self.fail(JobError::DuplicateName { name });
        }
        if self.inner.built.get() {
            self.fail(JobError::BuiltLate { name });
        }
        self.compare(Item::operator(kind, &name, scope.worker().peek_identifier()));
        self.refuse_unprotected(self.inner.origins.admit(&name, scope));
        self.inner.whereabouts.admit(&name, self.inner.generation.resume);
        self.inner.names.borrow_mut().push(name.clone());
        name
    }

    /// Takes a target for a sink; ends the job where another sink of this worker has it, or a part of it.
    pub(crate) fn claim(&self, sink: &OperatorName, target: String) {
        let is_within = |inner: &str, outer: &str| {
            let rest = inner.strip_prefix(outer.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let clash = {
            let targets = self.inner.targets.borrow();
            let clashes = |other: &str| is_within(&target, other) || is_within(other, &target);
            targets.iter().find(|(_, other)| clashes(other)).cloned()
        };
        if let Some((first, first_target)) = clash {
            let (second, second_target) = (sink.clone(), target);
            self.fail(JobError::SharedTarget { first, first_target, second, second_target });
        }
        self.inner.targets.borrow_mut().push((sink.clone(), target));
    }

    /// Notes a state of a protected operator, with its number in the vault: the next item of the catalogue.
    pub(crate) fn admit_state(&self, name: &OperatorName, encoding: &str, partitions: u32) {
        let of = self.inner.names.borrow().last().cloned();
        let what = match of {
            Some(of) if of != *name => format!("state \"{name}\" of operator \"{of}\""),
            _ => format!("operator \"{name}\""),
        };
        let there = self.inner.numbers.borrow_mut().insert(operator_id(name), what.clone());
        if let Some(one) = there {
            self.fail(JobError::NameCollision { one, other: what });
        }
        self.compare(Item::state(name, encoding, partitions));
    }

    /// Notes, once, that this worker's job is built, and checks it against what the others have built and
    /// against the state that waits.
    pub(crate) fn built(&self) {
        if self.inner.built.replace(true) {
            return;
        }
        if self.inner.names.borrow().is_empty() {
            self.fail(JobError::NothingProtected);
        }
        self.refuse_unprotected(self.inner.origins.check());
        self.compare(Item::end());
        match self.generation().vault.unclaimed(self.generation().view) {
            Ok(unclaimed) => {
                if let Some(name) = unclaimed.into_iter().next() {
                    self.fail(JobError::UnknownName { name });
                }
            }
            // This generation is over, and its worker late.
            Err(_) => self.leave(),
        }
        self.notice(Notice::Built { worker: self.inner.worker });
    }

    fn refuse_unprotected(&self, found: Option<Unprotected>) {
        if let Some(Unprotected { after, before }) = found {
            let after = after.map_or(String::new(), |after| format!("after \"{after}\" and "));
            self.fail(JobError::Unprotected { place: format!("{after}before \"{before}\"") });
        }
    }

    /// Compares the next item of this worker's catalogue with that of the others.
    pub(crate) fn compare(&self, item: Item) {
        let position = self.inner.items.replace(self.inner.items.get() + 1);
        let worker = self.inner.generation.index_in_process(self.inner.worker);
        if let Err(error) = self.inner.generation.catalogue.compare(worker, position, item) {
            self.fail(error);
        }
    }
}
