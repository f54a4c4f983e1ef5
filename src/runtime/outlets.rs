//! Outlets of a desk: the report file and the screen, each behind a thread and a bounded queue.
//!
//! A disk may be full, a pipe closed, a terminal stopped. The job is more important than what is reported
//! about it: a caller waits only a moment, and whatever could not be reported is counted, and the count is
//! reported instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, bounded};

use crate::chaos::Fault;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::report::{
    Console, Desk, Event, FailureReport, Origin, Outlets, ReportFile, Screen, Shown, Summary,
    counted,
};

/// Lines of the report that may wait to be written.
const REPORT_LINES_MAX: usize = 8_192;

/// Bytes of such lines. One longer line may wait alone.
const REPORT_BYTES_MAX: usize = 16 << 20;

/// How long a caller waits for a full queue of the report before the report ends.
const REPORT_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long the end of a run waits until the report is written.
const REPORT_FLUSH_MAX: Duration = Duration::from_secs(5);

/// How often the location of the report file is checked.
const PLACE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Things that may wait to be shown. Any more are dropped and counted.
const SHOWN_MAX: usize = 1_024;

/// How long a screen that accepts nothing may delay a node's line of standard error.
const FORWARD_WAIT_MAX: Duration = Duration::from_millis(200);

/// How long the end of a run waits until everything is shown.
const SHOWN_FLUSH_MAX: Duration = Duration::from_secs(2);

/// The desk of a process: it writes to the report file, if there is one, and to the screen.
pub(super) type ProcessDesk = Desk<FileAndScreen>;

/// The report file, if one was requested and can still be written, and the screen.
pub(super) struct FileAndScreen {
    recorder: Option<Recorder>,
    pub(super) display: Display,
}

impl ProcessDesk {
    /// The desk of one of `parts` processes that each report their own part.
    pub(super) fn start(config: &Config, origin: impl Into<Origin>, parts: usize) -> Result<Self> {
        let file = config.report.as_deref().map(ReportFile::open).transpose()?;
        let (display, origin) = (Display::start()?, origin.into());
        let console = Console::new(display.screen.has_bar(), parts, origin.node());
        let recorder = file.map(Recorder::start).transpose()?;
        let outlets = FileAndScreen { recorder, display };
        Ok(Desk::new(origin, console, config.on_failure.clone(), outlets))
    }

    /// Completes what is open at the end of a run that ended with `result`, and removes the bar.
    pub(super) fn end(
        self,
        result: &Result<()>,
        unfired: &[Fault],
    ) -> (Summary, Vec<FailureReport>) {
        let (summary, failures, outlets) = self.finish(result.as_ref().err(), unfired);
        outlets.display.finish();
        (summary, failures)
    }
}

impl Outlets for FileAndScreen {
    fn write(&mut self, event: &Event) -> Result<()> {
        let Some(recorder) = &mut self.recorder else { return Ok(()) };
        let result = recorder.append(event);
        if result.is_err() {
            self.recorder = None;
        }
        result
    }

    fn show(&mut self, shown: Shown) {
        self.display.show(shown);
    }

    fn finish_report(&mut self) -> Result<()> {
        self.recorder.as_mut().map_or(Ok(()), Recorder::finish)
    }
}

/// Writes the report on a separate thread, until something is wrong with the file.
pub(super) struct Recorder {
    lines: Option<Sender<Vec<u8>>>,
    waiting_bytes: Arc<AtomicUsize>,
    /// Why the report ended, once.
    lost: Receiver<Error>,
    path: String,
}

impl Recorder {
    pub(super) fn start(file: ReportFile) -> Result<Self> {
        let (sender, lines) = bounded::<Vec<u8>>(REPORT_LINES_MAX);
        let (tell_lost, lost) = bounded(1);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let (path, waiting) = (file.path().display().to_string(), Arc::clone(&waiting_bytes));
        start_thread("ringfence:report", move || {
            if let Err(error) = write_all(file, &lines, &waiting) {
                let _ = tell_lost.try_send(error);
            }
        })?;
        Ok(Recorder { lines: Some(sender), waiting_bytes, lost, path })
    }

    /// Appends `event`. An error says that the report ends here; it is returned once.
    pub(super) fn append(&mut self, event: &Event) -> Result<()> {
        let Some(lines) = &self.lines else { return Ok(()) };
        let line = ReportFile::line(event)?;
        let deadline = Instant::now() + REPORT_WAIT_MAX;
        while self.waiting_bytes.load(Ordering::Relaxed) > REPORT_BYTES_MAX
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(1));
        }
        let is_full =
            self.waiting_bytes.fetch_add(line.len(), Ordering::Relaxed) > REPORT_BYTES_MAX;
        let sent = if is_full { None } else { lines.send_deadline(line, deadline).err() };
        match sent {
            None if !is_full => Ok(()),
            Some(SendTimeoutError::Disconnected(_)) => {
                self.lines = None;
                Err(self.lost.try_recv().unwrap_or_else(|_| self.too_slow()))
            }
            _ => {
                self.lines = None;
                Err(self.too_slow())
            }
        }
    }

    /// Waits a while until everything is written. An error says what is missing.
    pub(super) fn finish(&mut self) -> Result<()> {
        if self.lines.take().is_none() {
            return Ok(());
        }
        match self.lost.recv_timeout(REPORT_FLUSH_MAX) {
            Ok(error) => Err(error),
            Err(RecvTimeoutError::Disconnected) => Ok(()),
            Err(RecvTimeoutError::Timeout) => Err(self.too_slow()),
        }
    }

    fn too_slow(&self) -> Error {
        Error::input(format!("report file {} accepts data too slowly", self.path))
    }
}

fn write_all(mut file: ReportFile, lines: &Receiver<Vec<u8>>, waiting: &AtomicUsize) -> Result<()> {
    let mut checked_at = Instant::now();
    for line in lines {
        let result = file.append(&line);
        waiting.fetch_sub(line.len(), Ordering::Relaxed);
        result?;
        if checked_at.elapsed() >= PLACE_CHECK_INTERVAL {
            file.check_place()?;
            checked_at = Instant::now();
        }
    }
    file.check_place()
}

/// Shows things on a separate thread. Clones share it.
#[derive(Clone)]
pub(super) struct Display {
    queue: Sender<Shown>,
    left_out: Arc<AtomicU64>,
    /// Whether a wait for a line has failed since something was last shown.
    is_stuck: Arc<AtomicBool>,
    screen: Screen,
    /// Disconnected when everything is shown and the thread has ended.
    ended: Receiver<()>,
}

impl Display {
    pub(super) fn start() -> Result<Self> {
        let screen = Screen::new();
        let (queue, shown) = bounded::<Shown>(SHOWN_MAX);
        let left_out = Arc::new(AtomicU64::new(0));
        let (ends, ended) = bounded(0);
        let (thread_screen, missing) = (screen.clone(), Arc::clone(&left_out));
        start_thread("ringfence:screen", move || {
            let _ends: Sender<()> = ends;
            let tell_missing = || match missing.swap(0, Ordering::Relaxed) {
                0 => {}
                count => {
                    let lines = counted(count, "line");
                    let text = format!(
                        "ringfence: {lines} left out here, as this terminal or pipe is slow"
                    );
                    thread_screen.show(&Shown::Line(text));
                }
            };
            for item in shown {
                thread_screen.show(&item);
                tell_missing();
            }
            tell_missing();
        })?;
        Ok(Display { queue, left_out, is_stuck: Arc::default(), screen, ended })
    }

    /// Shows `item` soon, or counts it if too much is already waiting.
    pub(super) fn show(&self, item: Shown) {
        let is_line = !matches!(item, Shown::Progress(_));
        if self.queue.try_send(item).is_err() && is_line {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Shows a line of a node's standard error. If the screen is slow, the caller waits for a moment, but not
    /// again before something could be shown.
    pub(super) fn forward_error(&self, prefix: &str, line: &[u8]) {
        let item = Shown::Forwarded { prefix: prefix.to_owned(), line: line.to_owned() };
        let is_stuck = self.is_stuck.load(Ordering::Relaxed);
        let limit = if is_stuck { Duration::ZERO } else { FORWARD_WAIT_MAX };
        let is_left_out = self.queue.send_timeout(item, limit).is_err();
        self.is_stuck.store(is_left_out, Ordering::Relaxed);
        if is_left_out {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Prints a line of a node's standard output. It belongs to the job, so none of it is dropped: a reader
    /// that does not read blocks the job's own printing, as with every pipe.
    pub(super) fn forward_output(&self, prefix: &str, line: &[u8]) {
        self.screen.forward_output(prefix, line);
    }

    /// Waits a while until everything is shown, and removes the bar. Remaining clones may show more.
    pub(super) fn finish(self) {
        let Display { queue, screen, ended, .. } = self;
        let deadline = Instant::now() + SHOWN_FLUSH_MAX;
        while !queue.is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        drop(queue);
        // A clone may outlive this one: then only the last line may still be in transit.
        let is_over = ended.recv_timeout(SHOWN_FLUSH_MAX.min(Duration::from_millis(100)));
        if matches!(is_over, Err(RecvTimeoutError::Disconnected)) {
            screen.clear();
        }
    }
}

fn start_thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|error| Error::internal("cannot start a thread").because(error))?;
    Ok(())
}

#[cfg(test)]
#[path = "outlets_tests.rs"]
mod tests;
