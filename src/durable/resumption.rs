//! Resumption: what a start of a cluster finds in its durable tier, and goes on from.

use std::sync::Arc;

use super::directory::DirectoryStore;
use super::manifest::{Manifest, Newest, Stage};
use super::store::Store;
use super::{DurableError, store_error};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::protocol::view::DurableStart;

/// What stands between a run's own name and the number of the start of its cluster.
const START: char = '+';

/// What a start of a cluster goes on from.
pub(crate) struct Resumption {
    /// The durable tier.
    pub(crate) store: Arc<dyn Store>,
    /// The id of the run, with the number of this start.
    pub(crate) run: String,
    /// What the first view says of it.
    pub(crate) start: DurableStart,
    /// What was passed over, since it is damaged.
    pub(crate) passed_over: Vec<DurableError>,
}

/// The part of a run's id that is the same in all starts of its cluster. Outputs bear it.
pub(crate) fn run_of(id: &str) -> &str {
    id.split_once(START).map_or(id, |(run, _)| run)
}

impl Resumption {
    /// Reads what there is to go on from, if the configuration has a durable tier; `fresh` is the run's id if that
    /// is empty.
    pub(crate) fn find(config: &Config, fresh: &str) -> Result<Option<Self>> {
        let Some(directory) = &config.durable else { return Ok(None) };
        let store = DirectoryStore::open(directory)
            .map_err(|error| Error::new(Kind::Input, "--durable cannot be used").because(error))?;
        Self::read(config, Arc::new(store), fresh).map(Some)
    }

    fn read(config: &Config, store: Arc<dyn Store>, fresh: &str) -> Result<Self> {
        let Newest { manifest, passed_over, .. } =
            Manifest::newest(store.as_ref()).map_err(store_error)?;
        let Some(manifest) = manifest else {
            let shares = (config.node_count() * config.workers) as u32;
            let start = DurableStart { start: 1, manifest: 0, epoch: None, shares, is_exact: true };
            return Ok(Resumption { store, run: fresh.to_owned(), start, passed_over });
        };
        let (run, place) = (&manifest.run, store.place());
        if manifest.stage == Stage::Done {
            return Err(Error::new(
                Kind::Input,
                format!(
                    "run {run} in {place} is done: name another directory with --durable to run the job again"
                ),
            ));
        }
        if manifest.partitions != config.partitions {
            let (expected, actual) = (manifest.partitions, config.partitions);
            return Err(Error::config(format!(
                "run {run} in {place} has {expected} partitions, and this start has {actual}: give it \
                 --partitions {expected}"
            )));
        }
        let start = manifest.start + 1;
        Ok(Resumption {
            run: format!("{run}{START}{start}"),
            start: DurableStart {
                start,
                manifest: manifest.number,
                epoch: manifest.epoch,
                shares: manifest.shares,
                // What one that is passed over had made durable was released, perhaps.
                is_exact: manifest.is_exact && passed_over.is_empty(),
            },
            passed_over,
            store,
        })
    }
}
