//! One node process: how it is started, what is known of it, how it ended.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Sender;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfence_operators::ids::{NodeId, ViewNumber};

use super::Inbox;
use super::outputs::{Output, start_readers};
use crate::config::{Config, NODE_VARIABLE};
use crate::error::{Error, Result};
use crate::report::{Cause, Clue, Component, FailurePlace, Observation};
use crate::runtime::channel::ADDRESS_VARIABLE;
use crate::runtime::memory_kills::MemoryKills;
use crate::runtime::outlets::Display;
use crate::runtime::turns::TURN_VARIABLE;

/// One node process.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) child: Child,
    pub(super) channel: UnixStream,
    pub(super) address: Option<String>,
    pub(super) status: Option<ExitStatus>,
    /// Whether it was killed on purpose.
    pub(super) is_killed: bool,
    /// The last that it said about itself: an error event, or else a line on standard error.
    pub(super) last_error: Option<String>,
    pub(super) last_line: Arc<Mutex<String>>,
    /// The error that it has told, for those who read its output.
    pub(super) told_error: Arc<Mutex<Option<String>>>,
    /// Whether it has said that the others went on without it.
    pub(super) excluded: bool,
    /// What it may still be heard through: two outputs and its channel.
    pub(super) outputs_open: usize,
    /// Whether all that it had to tell is told.
    pub(super) channel_ended: bool,
    pub(super) end_told: bool,
    /// Whether it will not be started again.
    pub(super) is_given_up: bool,
    /// Whether it was ended because there was nobody to take it in.
    pub(super) was_in_vain: bool,
}

impl Node {
    /// Starts node `id` of the job of this name among those of the program. It listens at `address`, if it has
    /// listened there before.
    pub(super) fn spawn(
        config: &Config,
        turn: Option<&str>,
        id: NodeId,
        address: Option<&str>,
        display: &Display,
        sender: &Sender<Inbox>,
    ) -> Result<Self> {
        let cannot = |error: std::io::Error| {
            Error::internal(format!("cannot start the process of node {id}")).because(error)
        };
        let (channel, theirs) = UnixStream::pair().map_err(cannot)?;
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        match &config.node_args {
            Some(args) => command.args(args),
            None => command.args(std::env::args_os().skip(1)),
        };
        if let Some(turn) = turn {
            command.env(TURN_VARIABLE, turn);
        }
        if let Some(address) = address {
            command.env(ADDRESS_VARIABLE, address);
        }
        let mut child = command
            .env(NODE_VARIABLE, id.to_string())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(cannot)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let last_line = Arc::default();
        let node = Node {
            id,
            child,
            channel,
            address: None,
            status: None,
            is_killed: false,
            last_error: None,
            last_line: Arc::clone(&last_line),
            told_error: Arc::default(),
            excluded: false,
            outputs_open: 3,
            channel_ended: false,
            end_told: false,
            is_given_up: false,
            was_in_vain: false,
        };
        let forward = (stdout.map(Output::Standard), stderr.map(Output::Error));
        start_readers(&node, forward, display, sender).map(|()| node).map_err(cannot)
    }

    /// What its status shows of a failure.
    ///
    /// An exit code before the first view is an error of the start, which speaks for itself.
    pub(super) fn observed_end(
        &self,
        view: ViewNumber,
        memory_kills: &mut MemoryKills,
    ) -> Option<Observation> {
        let status = self.status?;
        let mut evidence = Vec::new();
        let cause = match (status.code(), status.signal()) {
            (Some(_), _) if view == ViewNumber(0) => return None,
            (Some(code), _) => {
                evidence.push(Clue::ExitCode { code });
                evidence.extend(self.last_error.clone().map(|text| Clue::Error { text }));
                Cause::Exited
            }
            (None, Some(number)) => {
                let name = Signal::try_from(number).map_or_else(
                    |_| format!("signal {number}"),
                    |signal| signal.as_str().to_owned(),
                );
                evidence.push(Clue::Signal { number, name });
                let kills = memory_kills.since_last();
                match kills.filter(|_| number == Signal::SIGKILL as i32 && !self.is_killed) {
                    Some((kills, counted_by)) => {
                        let counted_by = counted_by.to_owned();
                        evidence.push(Clue::OutOfMemoryKills { kills, counted_by });
                        Cause::OutOfMemory
                    }
                    None => Cause::Killed,
                }
            }
            (None, None) => Cause::Exited,
        };
        Some(Observation {
            view,
            component: Component::Process,
            place: FailurePlace::node(self.id),
            cause,
            evidence,
        })
    }

    /// Sends `signal` to the process, which must not have been reaped.
    pub(super) fn signal(&self, signal: Signal) -> std::io::Result<()> {
        Ok(kill(Pid::from_raw(self.child.id() as i32), signal)?)
    }

    /// How it ended, and the last that it said.
    pub(super) fn ending(&self) -> String {
        let line = self.last_line.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let said = self.last_error.clone().unwrap_or(line);
        let said = if said.is_empty() { said } else { format!(": {said}") };
        format!("{}{said}", self.how_it_ended())
    }

    pub(super) fn how_it_ended(&self) -> String {
        let how = match self.status {
            None => "is still running".to_owned(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with exit code {code}"),
                (None, Some(signal)) => match Signal::try_from(signal) {
                    Ok(signal) => format!("was ended by {signal}"),
                    Err(_) => format!("was ended by signal {signal}"),
                },
                (None, None) => format!("ended: {status}"),
            },
        };
        format!("node {} {how}", self.id)
    }

    /// Looks whether the process has ended.
    pub(super) fn reap(&mut self) -> Result<()> {
        if self.status.is_none() {
            self.status = self.child.try_wait().map_err(|error| {
                Error::internal(format!("cannot wait for node {}", self.id)).because(error)
            })?;
        }
        Ok(())
    }

    /// The one-letter state of the process, where the system has a `/proc`.
    pub(super) fn state(&self) -> Option<char> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // The name before it stands in parentheses and may hold anything, parentheses too.
        text.rsplit_once(") ")?.1.chars().next()
    }

    /// Ends the process because nobody is left to take it in.
    pub(super) fn end_in_vain(&mut self) {
        self.was_in_vain = true;
        // It is reaped like any other; this fails only where it is gone already.
        let _ = self.child.kill();
    }

    /// Ends the process, if it has not ended.
    pub(super) fn end(&mut self) {
        if self.status.is_none() {
            // Either fails only where the process is gone already.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
