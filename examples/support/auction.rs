//! The events of NEXMark, dealt out to shares, with marks where a share has passed a window.
//!
//! Windows are of event time, and only data closes them: in the events of a share time never goes
//! back, and between them stands, for each window, a mark that no more of its events come from this
//! share. What a window holds is so the same however many shares there are, and whenever they come.

use std::io;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::Event;
use ringfence::prelude::*;
use serde::{Deserialize, Serialize};

use super::job::Job;

static OPENED: OnceLock<Instant> = OnceLock::new();

/// The environment variable that says when shares open at the earliest, in milliseconds since 1970: for
/// processes that are to begin together.
pub const OPENS_VARIABLE: &str = "NEXMARK_OPENS_MS";

/// When this process first opened a share: what came before is the start of its cluster.
pub fn opened() -> Option<Instant> {
    OPENED.get().copied()
}

fn open() -> Instant {
    let text = std::env::var(OPENS_VARIABLE).ok();
    let opens = text.and_then(|text| text.parse().ok()).map(Duration::from_millis);
    if let Some(opens) = opens
        && let Ok(early) = (UNIX_EPOCH + opens).duration_since(SystemTime::now())
    {
        std::thread::sleep(early);
    }
    Instant::now()
}

/// The length of a window in milliseconds of event time.
pub const WINDOW_MS: u64 = 1000;

/// After how many events a share pauses, where a pause was asked for.
const EVENTS_PER_PAUSE: u64 = 1000;

/// How many items are read at once.
const BATCH: usize = 1024;

/// What comes from a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// Something happened.
    Event(Event),
    /// No more events of this window, or an earlier one, come from this share.
    Passed {
        /// The window.
        window: u64,
        /// How many shares there are, all of which say so.
        shares: u64,
    },
}

/// The number of a share, and what comes from it.
pub type Item = (u64, What);

/// The window that a time is in.
pub fn window(time_ms: u64) -> u64 {
    time_ms / WINDOW_MS
}

/// A finite number of events; each share has its own.
#[derive(Clone, Debug)]
pub struct Market {
    events: u64,
    pace: Duration,
}

impl Market {
    /// The market that was asked for.
    pub fn of(job: &Job) -> Self {
        Market { events: job.events(), pace: job.pace() }
    }

    /// The items of one of `count` shares, from the start.
    pub fn share(&self, index: usize, count: usize) -> Share {
        let (index, count) = (index as u64, count as u64);
        self.share_from(index, count, (index, 0))
    }

    fn generator(&self, offset: u64, step: u64) -> EventGenerator {
        // Event time begins at nought, and its first 10,000 events are in its first second.
        let config = NexmarkConfig { base_time: 0, ..NexmarkConfig::default() };
        EventGenerator::new(config).with_offset(offset).with_step(step)
    }

    fn share_from(&self, index: u64, count: u64, (offset, window): (u64, u64)) -> Share {
        OPENED.get_or_init(open);
        let last = self.generator(self.events.saturating_sub(1), 1).timestamp();
        Share {
            generator: self.generator(offset, count),
            index,
            count,
            window,
            // The last window may be cut short by the end, but so it is for all.
            windows: self::window(last) + 1,
            events: self.events,
            pace: self.pace,
        }
    }
}

/// The items of one share.
#[derive(Clone, Debug)]
pub struct Share {
    generator: EventGenerator,
    index: u64,
    count: u64,
    /// The first window that this share has not passed.
    window: u64,
    windows: u64,
    events: u64,
    pace: Duration,
}

impl Iterator for Share {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        let offset = self.generator.offset();
        let is_over = offset >= self.events;
        if is_over && self.window >= self.windows {
            return None;
        }
        if is_over || window(self.generator.timestamp()) > self.window {
            let passed = What::Passed { window: self.window, shares: self.count };
            self.window += 1;
            return Some((self.index, passed));
        }
        if !self.pace.is_zero() && (offset / self.count).is_multiple_of(EVENTS_PER_PAUSE) {
            std::thread::sleep(self.pace);
        }
        self.generator.next().map(|event| (self.index, What::Event(event)))
    }
}

impl Source for Market {
    type Item = Item;
    /// The next event, and the first window that is not passed.
    type Position = (u64, u64);
    type Reader = Share;

    fn shards(&self, share_count: u32) -> io::Result<Vec<String>> {
        Ok((0..share_count).map(|index| format!("{index}/{share_count}")).collect())
    }

    fn open(&self, shard: &str, at: Option<&(u64, u64)>) -> io::Result<Share> {
        let (index, count) = parse(shard)?;
        Ok(self.share_from(index, count, at.copied().unwrap_or((index, 0))))
    }

    fn extent(&self, shard: &str) -> Option<u64> {
        let (index, count) = parse(shard).ok()?;
        Some(self.events.saturating_sub(index).div_ceil(count))
    }

    fn consumed(&self, shard: &str, &(offset, _window): &(u64, u64)) -> u64 {
        parse(shard).map_or(0, |(index, count)| (offset - index) / count)
    }
}

fn parse(shard: &str) -> io::Result<(u64, u64)> {
    let parts = shard.split_once('/').map(|(index, count)| (index.parse(), count.parse()));
    match parts {
        Some((Ok(index), Ok(count))) if count > 0 => Ok((index, count)),
        _ => {
            let what = format!("\"{shard}\" is not a share such as 0/3");
            Err(io::Error::new(io::ErrorKind::InvalidInput, what))
        }
    }
}

impl Reader for Share {
    type Item = Item;
    type Position = (u64, u64);

    fn read(&mut self, batch: &mut Vec<Item>) -> io::Result<bool> {
        let before = batch.len();
        batch.extend(self.by_ref().take(BATCH));
        Ok(batch.len() - before == BATCH)
    }

    fn position(&self) -> (u64, u64) {
        (self.generator.offset(), self.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn market(events: u64) -> Market {
        Market { events, pace: Duration::ZERO }
    }

    #[test]
    fn shares_have_all_events_and_each_passes_every_window_in_order() {
        let market = market(25_000);
        let whole: Vec<Event> = market.generator(0, 1).take(25_000).collect();
        for count in [1, 3] {
            let mut events = Vec::new();
            for index in 0..count {
                let mut passed = 0;
                for (share, what) in market.share(index as usize, count as usize) {
                    assert_eq!(share, index);
                    match what {
                        What::Event(event) => {
                            assert_eq!(window(event.timestamp()), passed);
                            events.push(event);
                        }
                        What::Passed { window, shares } => {
                            assert_eq!((window, shares), (passed, count));
                            passed += 1;
                        }
                    }
                }
                assert_eq!(passed, 3);
            }
            assert_eq!(events.len(), whole.len());
            assert!(whole.iter().step_by(97).all(|event| events.contains(event)));
        }
    }

    #[test]
    fn a_share_goes_on_where_it_was() {
        let market = market(12_000);
        let all: Vec<Item> = market.share(1, 2).collect();
        let mut reader = market.open("1/2", None).unwrap();
        let mut items = Vec::new();
        let mut more = true;
        while more {
            more = reader.read(&mut items).unwrap();
            reader = market.open("1/2", Some(&reader.position())).unwrap();
        }
        assert_eq!(items, all);
        assert_eq!(market.extent("1/2"), Some(6000));
        assert_eq!(market.consumed("1/2", &reader.position()), 6000);
    }
}
