//! Manifest: which segments make up the state of the job at one epoch.
//!
//! Manifests have numbers without gaps, and each number can be created only once. The newest is the one with
//! the highest number that is whole. A start of a cluster **claims** what it resumes from: it writes the same
//! contents again under the next number, with a start of its own. From then on nothing that an earlier start
//! writes counts: its next number is taken, and when it looks why, it learns that it was superseded.

use ringfence_operators::ids::{Epoch, NodeId, ViewNumber};
use ringfence_operators::vault::Registry;
use serde::{Deserialize, Serialize};

use super::DurableError;
use super::segment::sha1_of;
use super::store::{Created, Store};
use crate::protocol::durability::SegmentRecord;

/// The version of the format that this release writes and reads.
const VERSION: u32 = 1;

/// The folder of manifests in a store.
pub(super) const FOLDER: &str = "manifests";

/// What happened to the run by the time of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// A start has taken over what the manifest before says, and has committed nothing yet.
    Claimed,
    /// A checkpoint of a run in progress.
    Running,
    /// The job is done: there is nothing to resume.
    Done,
}

/// The state of a job at one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// The version of the format.
    pub(crate) version: u32,
    /// The number, which is also in the name.
    pub(crate) number: u64,
    /// How many starts of a cluster there have been on this store, this one included.
    pub(crate) start: u64,
    /// The run of that start.
    pub(crate) run: String,
    /// The view in which it was written.
    pub(crate) view: ViewNumber,
    /// What has happened.
    pub(crate) stage: Stage,
    /// The epoch; `None` if nothing was committed yet.
    pub(crate) epoch: Option<Epoch>,
    /// Whether nothing was released by then, or since, that is not durable.
    pub(crate) is_exact: bool,
    /// The number of partitions of the cluster.
    pub(crate) partitions: u32,
    /// The number of shares of hand-fed inputs.
    pub(crate) shares: u32,
    /// The members of the view, with the addresses at which they listen.
    pub(crate) members: Vec<(NodeId, String)>,
    /// The operators of the job.
    pub(crate) registry: Registry,
    /// The segments, in the order in which they were written.
    pub(crate) segments: Vec<SegmentRecord>,
}

/// Returns the name of the manifest of a number.
pub(crate) fn name_of(number: u64) -> String {
    format!("{FOLDER}/{number:012}")
}

/// Returns the numbers of the manifests of a store, ascending.
pub(crate) fn numbers(store: &dyn Store) -> Result<Vec<u64>, DurableError> {
    let listed = store.list(FOLDER)?;
    let mut numbers: Vec<u64> =
        listed.iter().filter_map(|(name, _)| name.rsplit('/').next()?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// What a store has to go on from.
#[derive(Debug)]
pub(crate) struct Newest {
    /// The newest manifest that is whole; `None` if the store is empty.
    pub(crate) manifest: Option<Manifest>,
    /// The number that the next one is to have.
    pub(crate) next_number: u64,
    /// What is wrong with those that are newer and not whole.
    pub(crate) passed_over: Vec<DurableError>,
}

impl Manifest {
    /// What an empty store stands for: number 0, before any start.
    pub(crate) fn before_any(partitions: u32, shares: u32) -> Self {
        Manifest {
            version: VERSION,
            number: 0,
            start: 0,
            run: String::new(),
            view: ViewNumber(0),
            stage: Stage::Running,
            epoch: None,
            is_exact: true,
            partitions,
            shares,
            members: Vec::new(),
            registry: Registry::default(),
            segments: Vec::new(),
        }
    }

    /// Encodes it: a line of JSON, and behind it a line with the SHA-1 of the first.
    fn encode(&self) -> Vec<u8> {
        let mut bytes =
            serde_json::to_vec(self).expect("a manifest has no map keys and no foreign types");
        let digest = sha1_of(&bytes);
        bytes.extend_from_slice(format!("\n{digest}\n").as_bytes());
        bytes
    }

    /// Creates it in a store, unless its number is taken.
    pub(crate) fn create(&self, store: &dyn Store) -> Result<Created, DurableError> {
        let (name, bytes) = (name_of(self.number), self.encode());
        match store.create(&name, &bytes)? {
            Created::Now => Ok(Created::Now),
            // The answer to an earlier attempt may have been lost: is it ours?
            Created::Exists if store.read(&name)?.as_deref() == Some(&bytes[..]) => {
                Ok(Created::Now)
            }
            Created::Exists => Ok(Created::Exists),
        }
    }

    /// Reads the manifest of a number, if there is one.
    pub(crate) fn read(store: &dyn Store, number: u64) -> Result<Option<Self>, DurableError> {
        let name = name_of(number);
        let damaged = |problem: &str| DurableError::damaged(store, &name, problem.to_owned());
        let Some(bytes) = store.read(&name)? else { return Ok(None) };
        let line_end = bytes.iter().position(|byte| *byte == b'\n');
        let (line, rest) = bytes.split_at(line_end.ok_or_else(|| damaged("it is cut"))?);
        let digest = sha1_of(line);
        if rest != format!("\n{digest}\n").as_bytes() {
            return Err(damaged("its SHA-1 is not the one that was written with it"));
        }
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } =
            serde_json::from_slice(line).map_err(|error| damaged(&error.to_string()))?;
        if version != VERSION {
            return Err(DurableError::Version {
                place: format!("{name} in {}", store.place()),
                expected: VERSION,
                actual: version,
            });
        }
        let manifest: Manifest =
            serde_json::from_slice(line).map_err(|error| damaged(&error.to_string()))?;
        if manifest.number != number {
            return Err(damaged(&format!("it says that its number is {}", manifest.number)));
        }
        Ok(Some(manifest))
    }

    /// Returns the newest manifest of a store that is whole.
    ///
    /// One that is damaged is passed over for the one before it. A store in which none is whole is an error, and
    /// so is one of a later release.
    pub(crate) fn newest(store: &dyn Store) -> Result<Newest, DurableError> {
        let mut numbers = numbers(store)?;
        let next_number = numbers.last().map_or(1, |last| last + 1);
        let mut passed_over = Vec::new();
        while let Some(number) = numbers.pop() {
            match Manifest::read(store, number) {
                Ok(Some(manifest)) => {
                    return Ok(Newest { manifest: Some(manifest), next_number, passed_over });
                }
                // It was deleted in the meantime.
                Ok(None) => {}
                Err(error @ DurableError::Damaged { .. }) => passed_over.push(error),
                Err(error) => return Err(error),
            }
        }
        match passed_over.pop() {
            Some(error) => Err(error),
            None => Ok(Newest { manifest: None, next_number, passed_over }),
        }
    }
}
