use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use ringfence_operators::ids::NodeId;

use super::{Proxy, ProxyHandle, Route};

const LOW: NodeId = NodeId(0);
const HIGH: NodeId = NodeId(1);

/// Long enough for bytes to pass that may, short enough to wait for those that must not.
const A_WHILE: Duration = Duration::from_millis(150);

/// Two nodes with a proxy between them; the higher one dials the lower one.
struct Bench {
    low: TcpListener,
    handle: ProxyHandle,
    proxy: JoinHandle<io::Result<()>>,
}

impl Bench {
    fn new() -> Bench {
        let [low, high] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let nodes = [(LOW, low.local_addr().unwrap()), (HIGH, high.local_addr().unwrap())];
        let (proxy, handle) = Proxy::new(nodes).unwrap();
        Bench { low, handle, proxy: thread::spawn(move || proxy.serve()) }
    }

    fn dial(&self) -> TcpStream {
        TcpStream::connect(self.handle.address(HIGH, LOW).unwrap()).unwrap()
    }

    /// A connection through the proxy: the dialler's end and the other.
    fn connect(&self) -> (TcpStream, TcpStream) {
        let near = self.dial();
        (near, self.low.accept().unwrap().0)
    }
}

fn up() -> Route {
    Route { from: LOW, to: HIGH }
}

fn down() -> Route {
    Route { from: HIGH, to: LOW }
}

/// Whether a byte, an end or an error comes within a while.
fn is_silent(stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(A_WHILE)).unwrap();
    let result = stream.peek(&mut [0]);
    stream.set_read_timeout(None).unwrap();
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn expect(mut stream: &TcpStream, text: &str) {
    let mut bytes = vec![0; text.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), text);
}

fn say(mut stream: &TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
}

#[test]
fn no_byte_passes_a_cut_and_none_is_lost() {
    let bench = Bench::new();
    let (near, far) = bench.connect();
    say(&near, "one");
    expect(&far, "one");
    bench.handle.cut(LOW);
    thread::sleep(A_WHILE);
    say(&near, "two");
    say(&far, "three");
    assert!(is_silent(&far) && is_silent(&near));
    bench.handle.heal(LOW);
    expect(&far, "two");
    expect(&near, "three");
}

#[test]
fn a_cut_may_go_one_way() {
    let bench = Bench::new();
    let (near, far) = bench.connect();
    say(&near, "before");
    expect(&far, "before");
    bench.handle.cut_one_way(down());
    thread::sleep(A_WHILE);
    say(&far, "up");
    expect(&near, "up");
    say(&near, "down");
    assert!(is_silent(&far));
    bench.handle.heal_one_way(down());
    expect(&far, "down");
    bench.handle.cut_one_way(up());
    thread::sleep(A_WHILE);
    say(&far, "up");
    assert!(is_silent(&near));
    bench.handle.heal_one_way(up());
    expect(&near, "up");
}

#[test]
fn overlapping_cuts_end_with_the_last() {
    let bench = Bench::new();
    let (near, far) = bench.connect();
    bench.handle.cut(LOW);
    bench.handle.cut(HIGH);
    bench.handle.heal(LOW);
    thread::sleep(A_WHILE);
    say(&near, "late");
    assert!(is_silent(&far));
    bench.handle.heal(HIGH);
    expect(&far, "late");
}

#[test]
fn a_slow_way_takes_longer_and_keeps_the_order() {
    let bench = Bench::new();
    let (near, far) = bench.connect();
    say(&near, "0");
    expect(&far, "0");
    bench.handle.slow(HIGH);
    thread::sleep(A_WHILE);
    let begun = Instant::now();
    for part in ["1", "2", "3"] {
        say(&near, part);
        thread::sleep(Duration::from_millis(5));
    }
    expect(&far, "1");
    assert!(begun.elapsed() >= Duration::from_millis(50), "{:?}", begun.elapsed());
    bench.handle.hasten(HIGH);
    say(&near, "4");
    expect(&far, "234");
    let begun = Instant::now();
    say(&far, "back");
    expect(&near, "back");
    assert!(begun.elapsed() < Duration::from_millis(50), "{:?}", begun.elapsed());
}

#[test]
fn an_end_passes_like_a_byte() {
    let bench = Bench::new();
    let (near, mut far) = bench.connect();
    say(&near, "last");
    near.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    far.read_to_string(&mut text).unwrap();
    assert_eq!(text, "last");
    // The other direction goes on.
    say(&far, "answer");
    expect(&near, "answer");
    drop(far);
    assert_eq!((&near).read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_cut_hides_an_end() {
    let bench = Bench::new();
    let (near, far) = bench.connect();
    say(&near, "here");
    expect(&far, "here");
    bench.handle.cut(HIGH);
    thread::sleep(A_WHILE);
    drop(near);
    assert!(is_silent(&far));
    bench.handle.heal(HIGH);
    assert_eq!((&far).read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_reset_is_passed_on_as_one() {
    let bench = Bench::new();
    for dialler_breaks in [true, false] {
        let (near, far) = bench.connect();
        say(&near, "here");
        expect(&far, "here");
        let (breaks, sees) = if dialler_breaks { (near, far) } else { (far, near) };
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&breaks, sockopt::Linger, &linger).unwrap();
        drop(breaks);
        let error = (&sees).read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_receiver_that_is_gone_is_seen_by_who_writes() {
    let bench = Bench::new();
    let (near, far) = bench.connect();
    drop(far);
    let begun = Instant::now();
    while (&near).write_all(b"into the void").is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10), "nobody said that it is gone");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_connection_may_be_opened_during_a_cut() {
    let bench = Bench::new();
    bench.handle.cut(LOW);
    thread::sleep(A_WHILE);
    let near = bench.dial();
    say(&near, "hello");
    bench.low.set_nonblocking(true).unwrap();
    thread::sleep(A_WHILE);
    assert_eq!(bench.low.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    bench.low.set_nonblocking(false).unwrap();
    bench.handle.heal(LOW);
    expect(&bench.low.accept().unwrap().0, "hello");
}

#[test]
fn a_node_that_does_not_listen_is_not_reached() {
    let Bench { low, handle, proxy } = Bench::new();
    drop(low);
    let near = TcpStream::connect(handle.address(HIGH, LOW).unwrap()).unwrap();
    near.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let result = (&near).read(&mut [0]);
    assert!(matches!(&result, Err(e) if e.kind() == io::ErrorKind::ConnectionReset), "{result:?}");
    handle.stop();
    proxy.join().unwrap().unwrap();
}

/// Bytes that tell their place.
fn byte_at(place: usize) -> u8 {
    (place ^ (place >> 8) ^ (place >> 16)) as u8
}

fn write_counted(mut stream: &TcpStream, total: usize) {
    let mut at = 0;
    while at < total {
        let length = (1 + at.wrapping_mul(31) % 100_000).min(total - at);
        let bytes: Vec<u8> = (at..at + length).map(byte_at).collect();
        stream.write_all(&bytes).unwrap();
        at += length;
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

fn read_counted(mut stream: &TcpStream) -> usize {
    let (mut at, mut buffer) = (0, vec![0; 50_000]);
    loop {
        let count = stream.read(&mut buffer).unwrap();
        if count == 0 {
            return at;
        }
        for byte in &buffer[..count] {
            assert_eq!(*byte, byte_at(at), "byte {at}");
            at += 1;
        }
    }
}

#[test]
fn many_bytes_pass_both_ways_under_all_faults() {
    const TOTAL: usize = 60 << 20;
    let bench = Bench::new();
    let (near, far) = bench.connect();
    thread::scope(|scope| {
        for stream in [&near, &far] {
            scope.spawn(move || write_counted(stream, TOTAL));
        }
        let readers = [&near, &far].map(|stream| scope.spawn(move || read_counted(stream)));
        for turn in 0..10 {
            bench.handle.slow(LOW);
            thread::sleep(Duration::from_millis(7));
            bench.handle.cut(HIGH);
            thread::sleep(Duration::from_millis(10 + turn));
            bench.handle.hasten(LOW);
            bench.handle.heal(HIGH);
            thread::sleep(Duration::from_millis(turn));
        }
        for reader in readers {
            assert_eq!(reader.join().unwrap(), TOTAL);
        }
    });
}

#[test]
fn a_receiver_that_does_not_read_holds_its_sender_up() {
    let bench = Bench::new();
    let (near, far) = bench.connect();
    near.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let block = vec![0; 1 << 20];
    let written = (0..100).take_while(|_| (&near).write_all(&block).is_ok()).count();
    assert!(written < 50, "{written} MiB are held for one that reads nothing");
    drop((near, far));
}

#[test]
fn it_ends_with_its_last_handle() {
    let Bench { low: _low, handle, proxy } = Bench::new();
    drop(handle);
    proxy.join().unwrap().unwrap();
}
