//! The options of the word count examples.
//!
//! An example takes its own options out of the command line and leaves all others to whoever runs
//! the dataflow. Since nodes are started anew with arguments of their own, what was chosen by
//! default is written out in [`Options::node_args`]: every node then reads the same files and writes
//! to the same directory.

use std::path::{Path, PathBuf};

/// How often the files are read by default.
pub const PASSES_DEFAULT: u64 = 100;

/// What a word count was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How often each file is read.
    pub passes: u64,
    /// Where the output goes, if that was said.
    pub out: Option<PathBuf>,
    /// Whether a fresh output directory is removed in the end.
    pub remove_output: bool,
    /// Whether the example's own fault is unwanted.
    pub no_fault: bool,
    /// The files to read.
    pub files: Vec<PathBuf>,
    /// Whether `--help` was asked for.
    pub help: bool,
    /// The program's name, and all arguments that are none of the example's.
    pub rest: Vec<String>,
}

/// The lines about these options for a help text.
pub const HELP: &str = "\
Options of the example:
      --passes <NUM>  Read the files NUM times [default: 100]
      --out <DIR>     Write to files in DIR/totals [default: a fresh temporary directory]
      --remove-output Remove the fresh temporary directory in the end
      --no-fault      Do without the example's own fault
  -- <FILES>...       Count the words of FILES
                      [default: all .rs, .md and .toml files of the checkout]";

impl Options {
    /// Reads the options of an example from `args`, whose first element is the program's name.
    pub fn from_args(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut args = args.into_iter();
        let mut options = Options {
            passes: PASSES_DEFAULT,
            out: None,
            remove_output: false,
            no_fault: false,
            files: Vec::new(),
            help: false,
            rest: vec![args.next().unwrap_or_else(|| "word_count".to_owned())],
        };
        while let Some(arg) = args.next() {
            let (name, value) = match arg.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (arg.as_str(), None),
            };
            let mut required = |what: &str| {
                value.clone().or_else(|| args.next()).ok_or(format!("{name} needs {what}"))
            };
            match name {
                "--passes" => options.passes = parse_passes(&required("a number")?)?,
                "--out" => options.out = Some(required("a directory")?.into()),
                "--remove-output" if value.is_none() => options.remove_output = true,
                "--no-fault" if value.is_none() => options.no_fault = true,
                "--help" if value.is_none() => options.help = true,
                "--" if value.is_none() => {
                    options.files = args.by_ref().map(PathBuf::from).collect()
                }
                _ => options.rest.push(arg),
            }
        }
        if options.remove_output && options.out.is_some() {
            return Err("--remove-output removes a fresh directory, and --out names one".to_owned());
        }
        if options.files.is_empty() {
            let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
            options.files = checkout_files(checkout)
                .map_err(|error| format!("cannot list {}: {error}", checkout.display()))?;
        }
        Ok(options)
    }

    /// Fails if one of the files cannot be read, and names it.
    pub fn check_files(&self) -> Result<(), String> {
        for path in &self.files {
            let meta = std::fs::File::open(path).and_then(|file| file.metadata());
            match meta {
                Ok(meta) if meta.is_file() => {}
                Ok(_) => return Err(format!("input {} is no file", path.display())),
                Err(error) => return Err(format!("cannot read input {}: {error}", path.display())),
            }
        }
        Ok(())
    }

    /// Fills in what an example does when it is not told: three local nodes if the cluster is not
    /// described at all, and node 1 killed at half of the input if a launcher with at least two
    /// nodes runs, unless `--no-fault` or a `--fault` is given.
    pub fn assume_defaults(&mut self) {
        if !self.has_flag(&['w', 'n', 'p'], &["threads", "processes", "process", "local"]) {
            self.rest.extend(["--local".to_owned(), "3".to_owned()]);
        }
        let nodes = self.local_nodes().unwrap_or(0);
        if nodes >= 2 && !self.no_fault && !self.has_flag(&[], &["fault"]) {
            self.rest.extend(["--fault".to_owned(), "kill:1@50%".to_owned()]);
        }
    }

    /// The arguments, without the program's name, by which another process of this program comes to
    /// the very same options.
    pub fn node_args(&self) -> Vec<String> {
        let mut args = vec![format!("--passes={}", self.passes)];
        args.extend(self.out.iter().map(|out| format!("--out={}", out.display())));
        args.extend(self.no_fault.then(|| "--no-fault".to_owned()));
        args.extend(self.rest.iter().skip(1).cloned());
        args.push("--".to_owned());
        args.extend(self.files.iter().map(|file| file.display().to_string()));
        args
    }

    /// Whether one of these flags is among the rest, in any of its forms.
    pub fn has_flag(&self, short: &[char], long: &[&str]) -> bool {
        self.rest.iter().skip(1).any(|arg| match arg.strip_prefix("--") {
            Some(name) => long.contains(&name.split('=').next().unwrap_or(name)),
            None => arg.strip_prefix('-').is_some_and(|flag| flag.starts_with(short)),
        })
    }

    fn local_nodes(&self) -> Option<usize> {
        let at = self.rest.iter().position(|arg| arg.starts_with("--local"))?;
        match self.rest[at].strip_prefix("--local=") {
            Some(value) => value.parse().ok(),
            None => self.rest.get(at + 1)?.parse().ok(),
        }
    }
}

fn parse_passes(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(passes) if passes > 0 => Ok(passes),
        _ => Err(format!("--passes {text}: expected a number above 0")),
    }
}

/// All `.rs`, `.md` and `.toml` files below `root`, sorted, but for those in `target` and in
/// directories whose names begin with a dot.
fn checkout_files(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (mut files, mut directories) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            let (kind, path, name) = (entry.file_type()?, entry.path(), entry.file_name());
            if kind.is_dir() && name != "target" && !name.as_encoded_bytes().starts_with(b".") {
                directories.push(path);
            } else if kind.is_file()
                && path.extension().is_some_and(|extension| {
                    ["rs", "md", "toml"].iter().any(|wanted| extension == *wanted)
                })
            {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Options {
        let args = std::iter::once("job").chain(line.split_whitespace()).map(String::from);
        Options::from_args(args).unwrap()
    }

    #[test]
    fn own_options_are_taken_and_others_left() {
        let options = options("-w 2 --passes 3 --out=o --fault kill:1@2s --no-fault -- a --out b");
        assert_eq!((options.passes, options.no_fault), (3, true));
        assert_eq!(options.out, Some("o".into()));
        assert_eq!(options.files, [Path::new("a"), Path::new("--out"), Path::new("b")]);
        assert_eq!(options.rest, ["job", "-w", "2", "--fault", "kill:1@2s"]);
    }

    #[test]
    fn the_checkout_is_read_by_default() {
        let files = options("").files;
        assert!(files.iter().any(|f| f.ends_with("examples/support/options.rs")));
        assert!(files.iter().any(|f| f.ends_with("Cargo.toml")));
        assert!(files.is_sorted() && !files.iter().any(|f| f.to_string_lossy().contains("/.git/")));
    }

    #[test]
    fn three_nodes_and_a_kill_are_assumed_only_where_nothing_is_said() {
        for (line, added) in [
            ("", "--local 3 --fault kill:1@50%"),
            ("--no-fault", "--local 3"),
            ("--local 2", "--local 2 --fault kill:1@50%"),
            ("--local=1", "--local=1"),
            ("--fault panic:0@1s", "--fault panic:0@1s --local 3"),
            ("-w2", "-w2"),
            ("-n 3 -p 0", "-n 3 -p 0"),
            ("--threads=2", "--threads=2"),
        ] {
            let mut options = options(line);
            options.assume_defaults();
            assert_eq!(options.rest[1..].join(" "), added, "{line}");
        }
    }

    #[test]
    fn a_node_comes_to_the_same_options() {
        let mut first = options("--out o --no-fault -w 2 -- a b");
        first.assume_defaults();
        let args = std::iter::once("job".to_owned()).chain(first.node_args());
        assert_eq!(Options::from_args(args).unwrap(), first);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, text) in [
            ("--passes", "--passes needs a number"),
            ("--passes 0", "--passes 0"),
            ("--out a --remove-output", "--remove-output removes a fresh directory"),
        ] {
            let args = std::iter::once("job").chain(line.split_whitespace()).map(String::from);
            assert!(Options::from_args(args).unwrap_err().starts_with(text));
        }
    }
}
