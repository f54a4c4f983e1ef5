//! What timely may be shown through a link, wherever the connection breaks: whole frames, then an end.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ringfence_operators::ids::NodeId;
use timely::communication::allocator::zero_copy::bytes_slab::{BytesRefill, BytesSlab};
use timely::communication::allocator::zero_copy::stream::Stream;
use timely::communication::networking::MessageHeader;

use super::frame::{CHANNEL_MAX, FRAME_BYTES_MAX, HEADER_BYTES, HeaderFault, LossReason};
use super::*;

/// A stream that delivers chunks as scripted, then an error or the end of file.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<ScriptState>>);

#[derive(Default)]
struct ScriptState {
    chunks: VecDeque<Vec<u8>>,
    error: Option<io::ErrorKind>,
    write_error: Option<io::ErrorKind>,
    written: Vec<u8>,
}

impl Script {
    fn new(chunks: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let script = Script::default();
        script.0.lock().unwrap().chunks = chunks.into_iter().filter(|c| !c.is_empty()).collect();
        script
    }
}

impl Read for Script {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.lock().unwrap();
        let Some(chunk) = state.chunks.front_mut() else {
            return state.error.map_or(Ok(0), |kind| Err(kind.into()));
        };
        let count = chunk.len().min(out.len());
        out[..count].copy_from_slice(&chunk[..count]);
        chunk.drain(..count);
        if chunk.is_empty() {
            state.chunks.pop_front();
        }
        // A reader may not rely on what lies behind the bytes it was given.
        out[count..].iter_mut().take(100).for_each(|byte| *byte = 0xEE);
        Ok(count)
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock().unwrap();
        if let Some(kind) = state.write_error {
            return Err(kind.into());
        }
        state.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Script {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(self.clone())
    }

    fn set_nonblocking(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn shutdown(&self, _: Shutdown) -> io::Result<()> {
        Ok(())
    }
}

const END: [u8; HEADER_BYTES] = [0; HEADER_BYTES];

/// Workers 2 and 3 are here, 0 and 1 at the other end.
fn ends() -> LinkEnds {
    LinkEnds { local_workers: 2..4, remote_workers: 0..2 }
}

fn header(fields: [u64; 6]) -> Vec<u8> {
    fields.iter().flat_map(|field| field.to_be_bytes()).collect()
}

fn frame(length: usize, fill: u8) -> Vec<u8> {
    let mut bytes = header([7, 1, 2, 3, length as u64, 9]);
    bytes.resize(HEADER_BYTES + length, fill);
    bytes
}

type Losses = Arc<Mutex<Vec<LinkLoss>>>;

fn link(script: &Script) -> (Link<Script>, Losses) {
    let losses = Losses::default();
    let link = Link::new(script.clone(), NodeId(5), ends(), {
        let losses = Arc::clone(&losses);
        move |loss| losses.lock().unwrap().push(loss)
    });
    (link, losses)
}

fn reasons(losses: &Losses) -> Vec<LossReason> {
    losses.lock().unwrap().iter().map(|loss| loss.why.clone()).collect()
}

/// Reads to the end of file, `room` bytes at a time.
fn read_all(link: &mut Link<Script>, room: usize) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), vec![0xAA; room]);
    loop {
        match link.read(&mut buffer).unwrap() {
            0 => return all,
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Rooms below and above what makes a read go straight to the caller's buffer.
const ROOMS: [usize; 4] = [1, 50, 1000, 1 << 20];

#[test]
fn a_clean_end_passes_through_silently() {
    let stream = [frame(10, 1), frame(300, 2), END.to_vec()].concat();
    for room in ROOMS {
        for size in [1, 7, 48, 61, stream.len()] {
            let script = Script::new(stream.chunks(size).map(<[u8]>::to_vec));
            let (mut link, losses) = link(&script);
            assert_eq!(read_all(&mut link, room), stream, "room {room}, chunks of {size}");
            assert_eq!(reasons(&losses), []);
            assert_eq!(link.traffic().received_bytes(), stream.len() as u64);
        }
    }
}

#[test]
fn a_stream_cut_anywhere_yields_whole_frames_and_one_loss() {
    let (first, second) = (frame(10, 1), frame(70, 2));
    let stream = [first.clone(), second].concat();
    for cut in 0..=stream.len() {
        for room in ROOMS {
            for size in [1, 13, stream.len()] {
                let script = Script::new(stream[..cut].chunks(size).map(<[u8]>::to_vec));
                let (mut link, losses) = link(&script);
                let whole = match cut {
                    _ if cut == stream.len() => stream.len(),
                    _ if cut >= first.len() => first.len(),
                    _ => 0,
                };
                let expected = [&stream[..whole], &END].concat();
                assert_eq!(read_all(&mut link, room), expected, "cut {cut} room {room} {size}");
                assert_eq!(
                    reasons(&losses),
                    [LossReason::EndOfFile { partial_bytes: cut - whole }]
                );
                assert_eq!(link.read(&mut [0; 8]).unwrap(), 0);
            }
        }
    }
}

#[test]
fn each_read_that_has_room_returns_whole_frames() {
    let stream: Vec<u8> = (0..50).flat_map(|i| frame(1000 + i * 37, i as u8)).collect();
    let script = Script::new(stream.chunks(777).map(<[u8]>::to_vec));
    let (mut link, _) = link(&script);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = link.read(&mut buffer).unwrap();
        let mut rest = &buffer[..count];
        if rest.is_empty() {
            break;
        }
        while !rest.is_empty() {
            let length = u64::from_be_bytes(rest[32..40].try_into().unwrap()) as usize;
            rest = &rest[HEADER_BYTES + length..];
        }
    }
}

#[test]
fn a_frame_larger_than_the_buffer_arrives_in_pieces() {
    let large = frame(5 << 20, 3);
    let stream = [frame(9, 1), large.clone(), frame(9, 2), END.to_vec()].concat();
    for room in [1000, 70_000, 1 << 20] {
        let script = Script::new(stream.chunks(100_000).map(<[u8]>::to_vec));
        let (mut link, losses) = link(&script);
        assert!(read_all(&mut link, room) == stream, "room {room}");
        assert_eq!(reasons(&losses), []);
    }
    // Its sender dies in the middle: no byte of it is shown.
    let cut = stream[..4 << 20].chunks(100_000).map(<[u8]>::to_vec);
    let (mut link, losses) = link(&Script::new(cut));
    assert_eq!(read_all(&mut link, 1 << 20), [frame(9, 1), END.to_vec()].concat());
    assert_eq!(reasons(&losses).len(), 1);
}

#[test]
fn a_bad_header_ends_the_link_after_the_frames_before_it() {
    let (local, remote) = (2..4, 0..2);
    let target = |lower, upper| HeaderFault::Target { lower, upper, expected: local.clone() };
    let source = |source_worker| HeaderFault::Source { source_worker, expected: remote.clone() };
    let cases = [
        ([7, 1, 1, 3, 8, 0], target(1, 3)),
        ([7, 1, 3, 5, 8, 0], target(3, 5)),
        ([7, 1, 3, 3, 8, 0], target(3, 3)),
        ([7, 1, 2, u64::MAX, 8, 0], target(2, u64::MAX)),
        ([7, 2, 2, 3, 8, 0], source(2)),
        ([CHANNEL_MAX + 1, 1, 2, 3, 8, 0], HeaderFault::Channel { channel: CHANNEL_MAX + 1 }),
        ([7, 1, 2, 3, u64::MAX, 0], HeaderFault::Length { length: u64::MAX }),
        ([7, 1, 2, 3, FRAME_BYTES_MAX, 0], HeaderFault::Length { length: FRAME_BYTES_MAX }),
        ([7, 1, 2, 3, 0, 0], HeaderFault::End),
    ];
    for (fields, fault) in cases {
        for room in ROOMS {
            let stream = [frame(10, 1), header(fields), vec![0; 8], frame(3, 3)].concat();
            let (mut link, losses) = link(&Script::new([stream]));
            assert_eq!(read_all(&mut link, room), [frame(10, 1), END.to_vec()].concat());
            assert_eq!(reasons(&losses), [LossReason::Header(fault.clone())]);
        }
    }
}

#[test]
fn bytes_after_the_end_are_a_loss_and_are_not_shown() {
    let stream = [frame(10, 1), END.to_vec()].concat();
    for chunks in [vec![[stream.clone(), vec![1]].concat()], vec![stream.clone(), vec![1]]] {
        let (mut link, losses) = link(&Script::new(chunks));
        assert_eq!(read_all(&mut link, 1 << 20), stream);
        assert_eq!(reasons(&losses), [LossReason::Header(HeaderFault::AfterEnd)]);
    }
}

#[test]
fn a_loss_after_the_end_was_shown_adds_no_second_end() {
    let script = Script::new([frame(10, 1), END.to_vec()]);
    script.0.lock().unwrap().write_error = Some(io::ErrorKind::BrokenPipe);
    let (mut link, losses) = link(&script);
    let mut writer = link.try_clone().unwrap();
    let mut out = vec![0; 4096];
    assert_eq!(link.read(&mut out).unwrap(), HEADER_BYTES + 10);
    assert_eq!(link.read(&mut out).unwrap(), HEADER_BYTES);
    writer.write_all(b"into the void").unwrap();
    assert_eq!(losses.lock().unwrap().len(), 1);
    assert_eq!(link.read(&mut out).unwrap(), 0);
}

#[test]
fn failing_reads_and_writes_report_once_and_pretend() {
    let script = Script::new([frame(10, 1)]);
    script.0.lock().unwrap().error = Some(io::ErrorKind::ConnectionReset);
    let (mut link, losses) = link(&script);
    let mut writer = link.try_clone().unwrap();
    writer.write_all(b"before").unwrap();
    assert_eq!(read_all(&mut link, 4096), [frame(10, 1), END.to_vec()].concat());
    writer.write_all(b"after").unwrap();
    writer.flush().unwrap();
    writer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(script.0.lock().unwrap().written, b"before");
    assert_eq!(writer.traffic().sent_bytes(), 6);
    assert!(matches!(
        reasons(&losses)[..],
        [LossReason::Io { kind: io::ErrorKind::ConnectionReset, .. }]
    ));
}

#[test]
fn a_failing_write_ends_the_reading_half_too() {
    let script = Script::new([frame(10, 1)]);
    script.0.lock().unwrap().write_error = Some(io::ErrorKind::BrokenPipe);
    let (mut link, losses) = link(&script);
    link.write_all(&[1; 100]).unwrap();
    assert_eq!(read_all(&mut link, 4096), END);
    assert_eq!(losses.lock().unwrap().len(), 1);
}

#[test]
fn a_close_amid_a_large_frame_lets_the_rest_of_it_follow() {
    let (mut link, losses) = link(&Script::new([frame(1000, 1)]));
    let closer = link.closer().unwrap();
    let mut part = vec![0; 500];
    assert_eq!(link.read(&mut part).unwrap(), 500);
    closer.close_now();
    let rest = read_all(&mut link, 500);
    assert_eq!([part, rest].concat(), [frame(1000, 1), END.to_vec()].concat());
    assert_eq!(reasons(&losses), []);
}

/// Returns the two ends of a loopback connection.
pub(super) fn socket_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (two, _) = listener.accept().unwrap();
    one.set_nodelay(true).unwrap();
    two.set_nodelay(true).unwrap();
    (one, two)
}

#[test]
fn a_close_unblocks_a_reader_and_a_writer() {
    let (near, far) = socket_pair();
    let mut reader = Link::new(near, NodeId(1), ends(), |loss| panic!("{loss}"));
    let mut writer = reader.try_clone().unwrap();
    let closer = reader.closer().unwrap();
    let reading = thread::spawn(move || {
        let mut out = vec![0; 1 << 20];
        (reader.read(&mut out).unwrap(), reader.read(&mut out).unwrap())
    });
    // The peer reads nothing: the socket's buffers fill up.
    let writing = thread::spawn(move || writer.write_all(&vec![1; 64 << 20]).unwrap());
    thread::sleep(Duration::from_millis(30));
    closer.close_now();
    closer.clone().close_now();
    assert_eq!(reading.join().unwrap(), (HEADER_BYTES, 0));
    writing.join().unwrap();
    drop(far);
}

/// Prints what a link costs over a bare socket.
///
/// `cargo test --release -p ringfence --lib link_cost -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn link_cost() {
    for size in [200, 8 << 10, 100 << 10, 3 << 20] {
        let [bare, linked, ratio] = compare(31, |wrapped| throughput(size, wrapped));
        println!(
            "{size:>8} byte frames: bare {bare:.0} MB per s of the reader's CPU, link {linked:.0}, ratio {ratio:.3}"
        );
    }
    let [bare, linked, ratio] = compare(31, round_trip);
    println!("round trip: bare {bare:.2} us, link {linked:.2}, ratio {ratio:.3}");
}

/// The processor time of this thread: the machine may have other things to do meanwhile.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// Reads as timely does, and returns the bytes of the frames.
fn drain(mut stream: impl Read) -> usize {
    let logic = Arc::new(|size| Box::new(vec![0u8; size]) as Box<_>);
    let mut slab = BytesSlab::new(20, BytesRefill { logic, limit: None });
    let mut total = 0;
    loop {
        slab.ensure_capacity(1);
        let count = stream.read(slab.empty()).unwrap();
        slab.make_valid(count);
        while let Some(header) = MessageHeader::try_read(slab.valid()) {
            total += slab.extract(header.required_bytes()).len();
            if header.length == 0 {
                return total;
            }
        }
    }
}

fn throughput(size: usize, wrapped: bool) -> f64 {
    let (near, far) = socket_pair();
    let count = (1 << 28) / size;
    let sender = thread::spawn(move || {
        let mut plain = io::BufWriter::with_capacity(1 << 16, far.try_clone().unwrap());
        let link = Link::new(far, NodeId(1), ends(), |_| ());
        let mut linked = io::BufWriter::with_capacity(1 << 16, link);
        let out: &mut dyn Write = if wrapped { &mut linked } else { &mut plain };
        let one = frame(size, 1);
        for _ in 0..count {
            out.write_all(&one).unwrap();
        }
        out.write_all(&END).unwrap();
        out.flush().unwrap();
    });
    let started = cpu_seconds();
    let total =
        if wrapped { drain(Link::new(near, NodeId(1), ends(), |_| ())) } else { drain(near) };
    let seconds = cpu_seconds() - started;
    sender.join().unwrap();
    total as f64 / seconds / 1e6
}

fn round_trip(wrapped: bool) -> f64 {
    let (near, far) = socket_pair();
    let rounds = 5_000;
    fn pong(mut stream: impl Read + Write, rounds: usize, first: bool) {
        let (one, mut buffer) = (frame(200, 1), vec![0; 1 << 20]);
        for _ in 0..rounds {
            if first {
                stream.write_all(&one).unwrap();
            }
            let mut got = 0;
            while got < one.len() {
                got += stream.read(&mut buffer[got..]).unwrap();
            }
            if !first {
                stream.write_all(&one).unwrap();
            }
        }
    }
    let started = std::time::Instant::now();
    let wrap = |stream| Link::new(stream, NodeId(1), ends(), |_| ());
    let other = thread::spawn(move || {
        if wrapped { pong(wrap(far), rounds, false) } else { pong(far, rounds, false) }
    });
    if wrapped {
        pong(wrap(near), rounds, true)
    } else {
        pong(near, rounds, true)
    }
    other.join().unwrap();
    started.elapsed().as_secs_f64() * 1e6 / rounds as f64
}

/// Other programs share the machine: the ratio is the median of many pairs.
fn compare(pairs: usize, measure: impl Fn(bool) -> f64) -> [f64; 3] {
    let mut columns = [const { Vec::new() }; 3];
    for _ in 0..pairs {
        let (bare, linked) = (measure(false), measure(true));
        for (column, value) in columns.iter_mut().zip([bare, linked, linked / bare]) {
            column.push(value);
        }
    }
    columns.map(|mut column| {
        column.sort_by(f64::total_cmp);
        column[pairs / 2]
    })
}
