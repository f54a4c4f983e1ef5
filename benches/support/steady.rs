//! A source of records at a steady rate.

use std::io;
use std::time::Duration;

use ringfence::prelude::*;

use super::{mix, rate};

/// How many shards the source has.
pub const SHARDS: u64 = 256;

/// Records at a steady rate; what they are depends on their number alone.
pub struct Steady {
    pub keys: u64,
    pub records: u64,
    /// Records per second that one worker reads.
    pub rate: u64,
}

pub struct SteadyReader {
    shard: u64,
    next: u64,
    end: u64,
    keys: u64,
    rate: u64,
}

impl Source for Steady {
    type Item = u64;
    type Position = u64;
    type Reader = SteadyReader;

    fn shards(&self, _share_count: u32) -> io::Result<Vec<String>> {
        Ok((0..SHARDS).map(|shard| shard.to_string()).collect())
    }

    fn open(&self, shard: &str, at: Option<&u64>) -> io::Result<SteadyReader> {
        Ok(SteadyReader {
            shard: shard.parse().map_err(io::Error::other)?,
            next: at.copied().unwrap_or(0),
            end: self.records / SHARDS,
            keys: self.keys,
            rate: self.rate,
        })
    }

    fn extent(&self, _shard: &str) -> Option<u64> {
        Some(self.records / SHARDS)
    }

    fn consumed(&self, _shard: &str, position: &u64) -> u64 {
        *position
    }
}

impl Reader for SteadyReader {
    type Item = u64;
    type Position = u64;

    fn read(&mut self, batch: &mut Vec<u64>) -> io::Result<bool> {
        let due = rate::due(self.rate, Duration::from_micros(200), self.end - self.next);
        for _ in 0..due {
            batch.push(mix(self.shard * self.end + self.next) % self.keys);
            self.next += 1;
        }
        Ok(self.next < self.end)
    }

    fn position(&self) -> u64 {
        self.next
    }
}
