//! The directory of a run's views.

use std::path::PathBuf;

use crate::config::Config;
use crate::error::{Error, Kind, Result};

/// Where the views of a run are kept.
pub(super) enum RegisterDirectory {
    Named(PathBuf),
    Fresh(tempfile::TempDir),
}

impl RegisterDirectory {
    pub(super) fn of(config: &Config) -> Result<Self> {
        if let Some(path) = &config.register {
            return Ok(RegisterDirectory::Named(path.to_owned()));
        }
        let fresh = tempfile::Builder::new().prefix("ringfence-register-").tempdir();
        fresh.map(RegisterDirectory::Fresh).map_err(|error| {
            let text = "cannot create a directory for the register";
            Error::new(Kind::Register, text).because(error)
        })
    }

    pub(super) fn path(&self) -> PathBuf {
        match self {
            RegisterDirectory::Named(path) => path.clone(),
            RegisterDirectory::Fresh(fresh) => fresh.path().to_owned(),
        }
    }

    /// Keeps a register that may help to explain `error`.
    pub(super) fn keep(self, error: Error) -> Error {
        let used = std::fs::read_dir(self.path()).is_ok_and(|mut entries| entries.next().is_some());
        match self {
            RegisterDirectory::Fresh(fresh) if used => {
                let path = fresh.keep();
                error.noting(&format!("the register is kept in {}", path.display()))
            }
            _ => error,
        }
    }
}
