//! Hourly weather of some airports over a year: generated, or from a file.

use serde::{Deserialize, Serialize};

use super::job::Job;
use super::random::random;

/// The days of a year.
const DAYS: u32 = 365;

/// Days before each month of a year that is no leap year.
const MONTHS: [u32; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];

/// The weather of one hour at one airport; numbers are in hundredths, so that sums are exact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Where.
    pub airport: String,
    /// Degrees Fahrenheit, where it was measured.
    pub temperature: Option<i64>,
    /// Inches of rain.
    pub rain: i64,
}

/// What was measured at one airport on one day, in hundredths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Day {
    /// The least temperature.
    pub least: i64,
    /// The greatest temperature.
    pub greatest: i64,
    /// The rain of the day.
    pub rain: i64,
    sum: i64,
    measured: i64,
}

impl Day {
    /// Adds the reading of an hour.
    pub fn add(&mut self, reading: &Reading) {
        self.rain += reading.rain;
        if let Some(temperature) = reading.temperature {
            let is_first = self.measured == 0;
            self.least = if is_first { temperature } else { self.least.min(temperature) };
            self.greatest = if is_first { temperature } else { self.greatest.max(temperature) };
            self.sum += temperature;
            self.measured += 1;
        }
    }

    /// The mean temperature, rounded down.
    pub fn mean(&self) -> i64 {
        self.sum.div_euclid(self.measured.max(1))
    }
}

/// The readings of each day of a year.
#[derive(Clone, Debug, Default)]
pub struct Year {
    days: Vec<Vec<Reading>>,
}

impl Year {
    /// The year of the file that was given, or a generated one.
    pub fn of(job: &Job) -> Self {
        let mut year = match job.read_file() {
            Some(text) => Year::parse(&text).unwrap_or_else(|what| job.refuse_file(&what)),
            None => Year::generate(job.seed()),
        };
        year.days.truncate(job.rounds_or(u64::from(DAYS)) as usize);
        year
    }

    /// The number of days.
    pub fn days(&self) -> u32 {
        self.days.len() as u32
    }

    /// The readings of a day, counted from 0.
    pub fn day(&self, day: u32) -> impl Iterator<Item = Reading> + '_ {
        self.days[day as usize].iter().cloned()
    }

    /// Reads lines of `origin,year,month,day,hour,temp,dewp,humid,wind_dir,wind_speed,wind_gust,precip,...`.
    fn parse(text: &str) -> Result<Self, String> {
        let mut year = Year { days: vec![Vec::new(); DAYS as usize] };
        for (number, line) in (1..).zip(text.lines()).skip(1) {
            let fields: Vec<&str> = line.split(',').collect();
            let wrong = || format!("line {number} is no reading: {line}");
            let [airport, _, month, day, _, temperature, _, _, _, _, _, rain, ..] = fields[..]
            else {
                return Err(wrong());
            };
            let (month, day) = (month.parse::<usize>(), day.parse::<u32>());
            let (Ok(month @ 1..=12), Ok(day @ 1..=31)) = (month, day) else {
                return Err(wrong());
            };
            // The last hour of the last day is the first of the next year in another time zone.
            let ordinal = (MONTHS[month - 1] + day - 1).min(DAYS - 1);
            year.days[ordinal as usize].push(Reading {
                airport: airport.to_owned(),
                temperature: hundredths(temperature),
                rain: hundredths(rain).unwrap_or(0),
            });
        }
        Ok(year)
    }

    fn generate(seed: u64) -> Self {
        let day = |day: u32| {
            let hours = (0..24).flat_map(move |hour| {
                ["AAA", "BBB", "CCC"].into_iter().enumerate().map(move |(index, airport)| {
                    let place = (u64::from(day) * 24 + hour) * 3 + index as u64;
                    let number = random(seed, place) as i64 >> 1;
                    let season = 3000 - 30 * (i64::from(day) - 182).abs();
                    Reading {
                        airport: airport.to_owned(),
                        temperature: (number % 50 != 0).then_some(4000 + season + number % 1500),
                        rain: if number % 9 == 0 { number % 70 } else { 0 },
                    }
                })
            });
            hours.collect()
        };
        Year { days: (0..DAYS).map(day).collect() }
    }
}

/// A decimal number in hundredths; `None` for `NA`.
fn hundredths(text: &str) -> Option<i64> {
    text.parse::<f64>().ok().map(|number| (number * 100.0).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_reading_of_its_day() {
        let text = "origin,year\nEWR,2013,2,1,1,39.02,26.06,59.37,270,10.357,NA,0.01,1012,10,x\n\
                    JFK,2013,12,31,23,NA,26.06,59.37,270,NA,NA,0,1012,10,x\n";
        let year = Year::parse(text).unwrap();
        let reading = Reading { airport: "EWR".to_owned(), temperature: Some(3902), rain: 1 };
        assert_eq!(year.day(31).collect::<Vec<_>>(), [reading]);
        assert_eq!(year.day(364).map(|reading| reading.temperature).collect::<Vec<_>>(), [None]);
        assert!(Year::parse("head\nEWR,2013,13,1").is_err());
        assert_eq!(Year::generate(1).day(7).count(), 72);
    }
}
