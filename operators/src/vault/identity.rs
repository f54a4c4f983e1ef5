//! Identity: what an operator of the job is to a vault, the same for the whole run.

use super::VaultError;
use crate::ids::OperatorName;
use crate::snapshot::operator_id;

/// What an operator was when it was registered first.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) name: OperatorName,
    pub(super) fingerprint: u32,
    /// How many partitions it has, or shares where it is an input.
    pub(super) partitions: u32,
}

impl Identity {
    pub(super) fn number(&self) -> u64 {
        operator_id(&self.name)
    }

    /// Whether an operator that is registered `now` is this one.
    pub(super) fn check(&self, now: &Identity) -> Result<(), VaultError> {
        if self.name != now.name {
            return Err(VaultError::Collision { there: self.name.clone(), new: now.name.clone() });
        }
        let [expected, actual] = [self, now].map(|of| (of.fingerprint, of.partitions));
        if expected != actual {
            return Err(VaultError::Changed { operator: now.name.clone(), expected, actual });
        }
        Ok(())
    }
}
