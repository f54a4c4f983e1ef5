//! Hostfiles and addresses of processes that are started by hand.

use std::path::Path;

use crate::error::{Error, Result};
use crate::report::counted;

/// The first port of timely's default addresses.
const FIRST_PORT: usize = 2101;

/// Timely's default addresses.
pub(super) fn default_hosts(processes: usize) -> Vec<String> {
    (0..processes).map(|i| format!("localhost:{}", FIRST_PORT + i)).collect()
}

/// The addresses of a hostfile, one per line. Blank lines and everything after `#` are ignored.
///
/// SUBTLE: if there are too many, timely uses the first ones. A process that this leaves out would never be
/// missed, and neither would its part of the input.
pub(super) fn read_hosts(file: &Path, processes: Option<usize>) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Error::usage(format!("cannot read hostfile {}", file.display())).because(error)
    })?;
    let without_comment = |line: &str| line.split('#').next().unwrap_or("").trim().to_owned();
    let hosts: Vec<String> =
        text.lines().map(without_comment).filter(|line| !line.is_empty()).collect();
    let has = format!("hostfile {} has {}", file.display(), counted(hosts.len() as u64, "address"));
    match processes {
        None => Err(Error::usage(format!(
            "{has}, but there is no -n: add -n {} to every process, and -p to say which it is",
            hosts.len()
        ))),
        Some(processes) if processes != hosts.len() => Err(Error::usage(format!(
            "{has}, but -n asks for {processes}: there must be one line for each process"
        ))),
        Some(_) => Ok(hosts),
    }
}

/// Refuses invalid addresses, and an address that is listed twice.
///
/// Their hosts may not be resolvable yet, so two names of one host are detected only if they are generally
/// known to be the same.
pub(super) fn check_addresses(addresses: &[String]) -> Result<()> {
    for (index, address) in addresses.iter().enumerate() {
        check_form(address)?;
        let same = |other: &&String| endpoint(other) == endpoint(address);
        match addresses[..index].iter().find(same) {
            Some(other) if other == address => {
                return Err(Error::config(format!("address {address} is listed twice")));
            }
            Some(other) => {
                return Err(Error::config(format!(
                    "addresses {other} and {address} are the same: each process needs its own"
                )));
            }
            None => {}
        }
    }
    Ok(())
}

fn check_form(address: &str) -> Result<()> {
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let is_port = port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port != 0));
    let spaced = address.contains(char::is_whitespace);
    // An IPv6 address without brackets would be split in the wrong place.
    let ambiguous = port.is_some_and(|(host, _)| host.contains(':') && !host.starts_with('['));
    if is_port && !spaced && !ambiguous {
        return Ok(());
    }
    Err(Error::config(format!("{address:?} is not an address: expected host:port")))
}

/// Host and port, with one name for all names of the local host.
fn endpoint(address: &str) -> (String, &str) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let is_own = matches!(host.as_str(), "localhost" | "127.0.0.1" | "[::1]" | "ip6-localhost");
    (if is_own { "localhost".to_owned() } else { host }, port)
}
