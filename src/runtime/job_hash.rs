//! The identity of a job: its executable, its arguments, and how it hashes keys.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};

use ringfence_operators::hash::KeyHasher;
use sha1::{Digest, Sha1};

/// Flags that differ between the processes of one job, each with a value.
const PER_PROCESS: [&str; 5] = ["-p", "--process", "-h", "--hostfile", "--report"];

/// The hash of this executable, of `args` without what differs between nodes, and of `key_hash`: the program
/// itself may choose that, and nodes with different key hashes would look for keys in different places.
pub(crate) fn job_hash(
    args: impl IntoIterator<Item = OsString>,
    key_hash: KeyHasher,
) -> io::Result<String> {
    let mut hash = Sha1::new();
    if key_hash == KeyHasher::Sha1 {
        hash.update("sha1");
    }
    let mut executable = File::open(std::env::current_exe()?)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = executable.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
    }
    for arg in shared_args(args) {
        hash.update([0]);
        hash.update(arg.as_encoded_bytes());
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn shared_args(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut shared = Vec::new();
    // The first argument is how the program was called, which may differ between machines.
    let mut args = args.into_iter().skip(1);
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        if PER_PROCESS.contains(&text.as_ref()) {
            args.next();
            continue;
        }
        let is_joined = PER_PROCESS.iter().any(|flag| match flag.strip_prefix("--") {
            Some(_) => text.starts_with(&format!("{flag}=")),
            None => text.starts_with(flag) && !text.starts_with("--"),
        });
        if !is_joined {
            shared.push(arg);
        }
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(args: &[&str]) -> Vec<OsString> {
        shared_args(args.iter().map(OsString::from))
    }

    #[test]
    fn nodes_that_hash_keys_differently_are_of_different_jobs() {
        let hash = |key_hash| job_hash([], key_hash).unwrap();
        assert_eq!(hash(KeyHasher::Sha1), hash(KeyHasher::Sha1));
        assert_ne!(hash(KeyHasher::Rapid), hash(KeyHasher::Sha1));
    }

    #[test]
    fn each_process_may_have_its_own_hostfile() {
        let first = shared(&["job", "-n", "3", "-p", "0", "-h", "here.txt"]);
        assert_eq!(first, shared(&["job", "-n", "3", "-p1", "-hthere.txt"]));
        assert_eq!(first, shared(&["job", "-n", "3", "--process=2", "--hostfile=third.txt"]));
    }

    #[test]
    fn what_differs_between_nodes_does_not_count() {
        let first = shared(&["./job", "-n", "3", "-p", "0", "--report", "a.json", "in.txt"]);
        let second = shared(&["/bin/job", "-n", "3", "-p2", "--report=b.json", "in.txt"]);
        assert_eq!(first, second);
        assert_ne!(first, shared(&["./job", "-n", "3", "-p", "0", "other.txt"]));
        assert_eq!(shared(&["job", "--partitions", "4"]), ["--partitions", "4"]);
    }
}
