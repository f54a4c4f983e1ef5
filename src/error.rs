//! What can go wrong, sorted by what to do next.
//!
//! There is one [`Error`] with a few [`Kind`]s. A text names the object it is about; the cause, if
//! there is one, stays reachable through [`std::error::Error::source`].

use std::error::Error as StdError;
use std::fmt;
use std::io::Write;

/// The exit code of a process that a signal has asked to end.
pub const EXIT_INTERRUPTED: i32 = 130;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Cause = Box<dyn StdError + Send + Sync + 'static>;

/// What to do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Nothing is wrong: the caller asked for help, and the text is the help. Print it and exit.
    Help,
    /// The command line is invalid. Correct it; `--help` lists all flags.
    Usage,
    /// The settings contradict each other or the cluster. Change the setting that the text names.
    Config,
    /// A file, directory or other input or output of the job cannot be used. Check what the text names.
    Input,
    /// The register cannot be reached or contains something else. Check the register that the text names.
    Register,
    /// An address cannot be bound or reached. Check the address that the text names.
    Network,
    /// The job itself failed, or ended in a way that cannot be recovered. The text says which node.
    Job,
    /// No copy of some partitions survived. Start the job again, with more backups.
    Lost,
    /// The cluster continued without this node. Nothing is lost.
    Excluded,
    /// A signal has asked this process to end. Start the job again when it is needed.
    Interrupted,
    /// Ringfence has broken one of its own invariants. Please report it.
    Internal,
}

/// What went wrong: a [`Kind`], a text that names the object, and an optional cause.
///
/// `Debug` reads like `Display` followed by the causes, since that is what a `main` that returns an
/// error prints.
#[derive(thiserror::Error)]
#[error("{text}")]
pub struct Error {
    kind: Kind,
    text: String,
    #[source]
    cause: Option<Cause>,
}

impl Error {
    /// An error of `kind`; `text` is lower case and names the object.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Error { kind, text: text.into(), cause: None }
    }

    /// The same error, with its cause.
    pub fn because(mut self, cause: impl Into<Cause>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The same error, with a note appended to its text.
    pub(crate) fn noting(mut self, note: &str) -> Self {
        self.text = format!("{}; {note}", self.text);
        self
    }

    /// An invalid command line.
    pub fn usage(text: impl Into<String>) -> Self {
        Error::new(Kind::Usage, text)
    }

    /// Settings that contradict each other or the cluster.
    pub fn config(text: impl Into<String>) -> Self {
        Error::new(Kind::Config, text)
    }

    /// A file, directory or other input or output of the job that cannot be used.
    pub fn input(text: impl Into<String>) -> Self {
        Error::new(Kind::Input, text)
    }

    /// A failure of the job itself.
    pub fn job(text: impl Into<String>) -> Self {
        Error::new(Kind::Job, text)
    }

    /// A broken invariant of Ringfence itself.
    pub fn internal(text: impl Into<String>) -> Self {
        Error::new(Kind::Internal, text)
    }

    /// Prints the error, or the help that was asked for, and ends the process.
    pub fn exit(&self) -> ! {
        // If nobody reads the output, there is nobody to tell.
        let _ = match self.kind {
            Kind::Help => writeln!(std::io::stdout(), "{self}"),
            _ => writeln!(std::io::stderr(), "error: {self:?}"),
        };
        std::process::exit(self.exit_code())
    }

    /// What to do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The exit code of a process that ends with this error: 2 if the command line or the settings are wrong,
    /// 130 if a signal has asked it to end, 0 for help, and 1 otherwise.
    pub fn exit_code(&self) -> i32 {
        match self.kind {
            Kind::Help => 0,
            Kind::Usage | Kind::Config => 2,
            Kind::Interrupted => EXIT_INTERRUPTED,
            _ => 1,
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_reads_like_display_with_the_causes() {
        let error =
            Error::input("cannot read a.txt").because(std::io::Error::other("disk on fire"));
        assert_eq!(error.to_string(), "cannot read a.txt");
        assert_eq!(format!("{error:?}"), "cannot read a.txt: disk on fire");
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn a_wrong_command_line_exits_with_2() {
        assert_eq!(Error::usage("unknown flag").exit_code(), 2);
        assert_eq!(Error::config("too many backups").exit_code(), 2);
    }
}
