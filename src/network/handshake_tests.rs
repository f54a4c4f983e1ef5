//! Strangers at the port: nothing they send reaches anyone, and members still get through.

use std::io::{self, Cursor, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ringfence_operators::ids::{Incarnation, NodeId, ViewNumber};

use super::handshake::{
    Answer, HANDSHAKE_BYTES_MAX, HandshakeError, PROTOCOL_VERSION, read_message, write_message,
};
use super::listener::RefusedKind;
use super::*;

fn identity() -> Identity {
    Identity {
        run: "run-1".into(),
        job: "job-1".into(),
        round: 0,
        node: NodeId(0),
        incarnation: Incarnation(7),
    }
}

fn hello() -> Hello {
    Hello {
        run: "run-1".into(),
        job: "job-1".into(),
        node: NodeId(1),
        incarnation: Incarnation(8),
        address: "127.0.0.1:1".into(),
        purpose: Purpose::Control,
        round: 0,
        to_node: NodeId(0),
        to_incarnation: None,
    }
}

fn data(view: u64) -> Hello {
    let purpose = Purpose::Data { view: ViewNumber(view), digest: "d".into() };
    Hello { purpose, ..hello() }
}

fn welcome() -> Welcome {
    Welcome {
        node: NodeId(0),
        incarnation: Incarnation(7),
        run: "run-1".into(),
        register: Some("/tmp/register".into()),
    }
}

fn limits() -> ListenerLimits {
    ListenerLimits { hello_time_max: Duration::from_millis(100), ..ListenerLimits::default() }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// A listener in view 3 that echoes what comes over a connection it took.
fn echo(limits: ListenerLimits) -> (Listener, String, mpsc::Receiver<RefusedConnection>) {
    let (refused, reports) = mpsc::channel();
    let on_inbound = |inbound: Inbound| {
        if let Err(reason) = identity().check(&inbound.hello) {
            return inbound.refuse(reason).unwrap();
        }
        let here = ViewNumber(3);
        if let Purpose::Data { view: yours, .. } = inbound.hello.purpose
            && yours != here
        {
            return inbound.refuse(Refusal::StaleView { yours }).unwrap();
        }
        let mut stream = inbound.accept(welcome()).unwrap();
        thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream));
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = Listener::start(listener, limits, on_inbound, move |refusal| {
        refused.send(refusal).unwrap();
    })
    .unwrap();
    let address = format!("localhost:{}", listener.local_addr().port());
    (listener, address, reports)
}

fn refusal(address: &str, hello: &Hello) -> Refusal {
    match dial(address, hello, soon()) {
        Err(DialError::Refused { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

/// Dials and checks that the connection carries bytes both ways.
fn assert_takes_members(address: &str) {
    let (mut stream, answer) = dial(address, &hello(), soon()).unwrap();
    assert_eq!(answer, welcome());
    assert!(stream.nodelay().unwrap());
    assert_eq!(stream.read_timeout().unwrap(), None);
    stream.write_all(b"as before").unwrap();
    let mut bytes = [0; 9];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"as before");
}

#[test]
fn a_member_is_welcome_and_others_learn_why_not() {
    let (listener, address, reports) = echo(limits());
    assert_takes_members(&address);
    assert!(dial(&address, &Hello { run: String::new(), ..hello() }, soon()).is_ok());
    assert!(dial(&address, &data(3), soon()).is_ok());

    let other = || String::from("other");
    assert_eq!(refusal(&address, &Hello { job: other(), ..hello() }), Refusal::OtherJob);
    assert_eq!(refusal(&address, &Hello { run: other(), ..hello() }), Refusal::OtherRun);
    // Frames never flow before the run is known.
    assert_eq!(refusal(&address, &Hello { run: String::new(), ..data(3) }), Refusal::OtherRun);
    let yours = ViewNumber(2);
    assert_eq!(refusal(&address, &data(2)), Refusal::StaleView { yours });
    let wanted = NodeId(4);
    assert_eq!(
        refusal(&address, &Hello { to_node: wanted, ..hello() }),
        Refusal::WrongNode { wanted }
    );
    let wanted = Incarnation(6);
    assert_eq!(
        refusal(&address, &Hello { to_incarnation: Some(wanted), ..hello() }),
        Refusal::OtherIncarnation { wanted }
    );
    let error = dial(&address, &data(2), soon()).unwrap_err();
    assert!(error.to_string().ends_with("view 2 of this node has already ended there"), "{error}");
    listener.shutdown();
    assert!(reports.try_recv().is_err(), "a refusal by the caller is not the listener's");
}

#[test]
fn a_refusal_tells_a_stranger_nothing_and_the_user_what_both_say() {
    let stranger = |job: &str| Hello { job: job.to_owned(), to_node: NodeId(9), ..hello() };
    for job in ["evil\u{1b}[2J\nnode 0: error: all is lost", "other-job", &"x".repeat(60_000)] {
        let hello = stranger(job);
        let reason = identity().check(&hello).unwrap_err();
        let sent = serde_json::to_string(&Answer::Refused { reason: reason.clone() }).unwrap();
        assert_eq!(sent, r#"{"Refused":{"reason":"OtherJob"}}"#);
        let told = identity().explain(&reason, &hello);
        assert!(told.ends_with("here is job-1") && told.len() < 200, "{told}");
        assert!(!told.contains("lost") && !told.contains('\u{1b}'), "{told}");
        assert_eq!(told.contains("other-job"), job == "other-job", "{told}");
    }
    // Parsers quote what they do not understand.
    let message = br#"{"run":"r","job":"j","node":1,"incarnation":1,"address":"a:1","purpose":"all is lost","to_node":0,"to_incarnation":null}"#;
    let length = (message.len() as u32).to_be_bytes();
    let bytes = [&b"ringfnce\0\0\0\x01"[..], &length, message].concat();
    let error = read_message::<Hello>(&mut Cursor::new(bytes)).unwrap_err();
    assert!(!error.to_string().contains("lost"), "{error}");
}

#[test]
fn a_dialer_that_is_a_job_ahead_is_taken_later() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = AtomicU32::new(0);
    let on_inbound = move |inbound: Inbound| {
        let round = u32::from(asked.fetch_add(1, Ordering::SeqCst) > 1);
        match (Identity { round, ..identity() }).check(&inbound.hello) {
            Ok(()) => drop(inbound.accept(welcome())),
            Err(reason) => inbound.refuse(reason).unwrap(),
        }
    };
    let listener = Listener::start(listener, limits(), on_inbound, |_| {}).unwrap();
    dial(&address, &Hello { round: 1, ..hello() }, soon()).unwrap();
    assert_eq!(refusal(&address, &hello()), Refusal::OtherRun);
    listener.shutdown();
}

#[test]
fn strangers_are_counted_by_kind() {
    let (listener, address, reports) = echo(limits());
    let prefix = |version: u32, length: u32| {
        [&b"ringfnce"[..], &version.to_be_bytes(), &length.to_be_bytes()].concat()
    };
    let cases: Vec<(RefusedKind, Vec<u8>)> = vec![
        (RefusedKind::Garbage, b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        (RefusedKind::Garbage, b"x".to_vec()),
        (RefusedKind::Silent, Vec::new()),
        (RefusedKind::Silent, b"ringf".to_vec()),
        (RefusedKind::Silent, [prefix(PROTOCOL_VERSION, 500), vec![b'{'; 10]].concat()),
        (RefusedKind::TooLong, prefix(PROTOCOL_VERSION, HANDSHAKE_BYTES_MAX as u32 + 1)),
        (RefusedKind::TooLong, prefix(PROTOCOL_VERSION, u32::MAX)),
        (RefusedKind::Malformed, [prefix(PROTOCOL_VERSION, 2), b"{}".to_vec()].concat()),
        (RefusedKind::Malformed, [prefix(PROTOCOL_VERSION, 4), vec![0xFF; 4]].concat()),
        (RefusedKind::Version, [prefix(99, 2), b"{}".to_vec()].concat()),
    ];
    for (kind, bytes) in &cases {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // The listener closes; a reset is a way to close.
        let _ = stream.read_to_end(&mut answer);
        if matches!(kind, RefusedKind::Malformed | RefusedKind::Version) {
            let answer: Answer = read_message(&mut Cursor::new(answer)).unwrap();
            assert!(matches!(answer, Answer::Refused { .. }));
        }
    }
    let stream = TcpStream::connect(&address).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let _ = (&stream).read(&mut [0]);
    assert_takes_members(&address);

    // One is reported after its connection is closed.
    let report = || reports.recv_timeout(Duration::from_secs(10)).expect("each is reported").kind;
    let mut reported: Vec<_> = (0..=cases.len()).map(|_| report()).collect();
    listener.shutdown();
    assert_eq!(reports.iter().count(), 0, "each is reported once");
    reported.sort();
    let mut expected: Vec<_> =
        cases.iter().map(|case| case.0).chain([RefusedKind::Closed]).collect();
    expected.sort();
    assert_eq!(reported, expected);
}

#[test]
fn a_stranger_who_trickles_is_cut_off_in_time() {
    let (listener, address, reports) = echo(limits());
    let mut stream = TcpStream::connect(&address).unwrap();
    let started = Instant::now();
    for byte in b"ringfnce".iter().chain(&[0; 1000]) {
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert!(started.elapsed() < Duration::from_secs(2));
    let first = reports.recv().unwrap().kind;
    assert!(matches!(first, RefusedKind::Silent | RefusedKind::Version), "{first:?}");
    listener.shutdown();
}

#[test]
fn too_many_handshakes_at_once_are_closed_and_counted() {
    let limits = ListenerLimits { handshakes_max: 2, hello_time_max: Duration::from_secs(60) };
    let (listener, address, reports) = echo(limits);
    let idle: Vec<_> = (0..5).map(|_| TcpStream::connect(&address).unwrap()).collect();
    for stream in &idle[2..] {
        assert!(matches!((&*stream).read(&mut [0]), Ok(0) | Err(_)));
    }
    for _ in 0..3 {
        assert_eq!(reports.recv_timeout(Duration::from_secs(10)).unwrap().kind, RefusedKind::Busy);
    }
    // A dialer tries again until there is a place.
    let dialing = thread::spawn(move || assert_takes_members(&address));
    drop(idle);
    dialing.join().unwrap();
    listener.shutdown();
}

#[test]
fn a_shutdown_does_not_wait_for_silent_strangers_and_frees_the_port() {
    let long = Duration::from_secs(60);
    let limits = ListenerLimits { hello_time_max: long, ..limits() };
    let (listener, address, _reports) = echo(limits);
    let _idle = TcpStream::connect(&address).unwrap();
    thread::sleep(Duration::from_millis(20));
    let started = Instant::now();
    listener.shutdown();
    assert!(started.elapsed() < Duration::from_secs(1));
    assert!(TcpStream::connect(&address).is_err());
}

/// Returns an address that nobody listens on, where no other test can come to listen meanwhile.
fn free_address() -> SocketAddr {
    let host = if cfg!(target_os = "linux") { "127.0.0.77" } else { "127.0.0.1" };
    TcpListener::bind((host, 0)).unwrap().local_addr().unwrap()
}

#[test]
fn a_dialer_waits_for_a_listener_that_starts_later() {
    let address = free_address();
    let dialing = thread::spawn(move || dial(&address.to_string(), &hello(), soon()).map(|_| ()));
    thread::sleep(Duration::from_millis(60));
    let listener = Listener::start(
        TcpListener::bind(address).unwrap(),
        limits(),
        |inbound| drop(inbound.accept(welcome())),
        |refused| panic!("{refused}"),
    )
    .unwrap();
    dialing.join().unwrap().unwrap();
    listener.shutdown();
}

#[test]
fn a_dialer_gives_up_at_its_deadline() {
    let address = free_address().to_string();
    let started = Instant::now();
    let error = dial(&address, &hello(), started + Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, DialError::Unreachable { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(1));

    // Somebody listens and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let started = Instant::now();
    let error = dial(&address, &hello(), started + Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, DialError::Unreachable { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_dialer_recognises_a_wrong_peer_and_another_protocol() {
    let serve = |answer: fn(&mut TcpStream)| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            read_message::<Hello>(&mut stream).unwrap();
            answer(&mut stream);
        });
        dial(&address, &hello(), soon()).unwrap_err()
    };
    let error = serve(|stream| {
        let wrong = Welcome { node: NodeId(9), ..welcome() };
        write_message(stream, &Answer::Welcome(wrong)).unwrap();
    });
    assert!(matches!(error, DialError::WrongPeer { node: NodeId(9), .. }), "{error}");
    let error = serve(|stream| {
        let wrong = Welcome { run: "run-2".into(), ..welcome() };
        write_message(stream, &Answer::Welcome(wrong)).unwrap();
    });
    assert!(matches!(error, DialError::WrongPeer { .. }), "{error}");
    let error = serve(|stream| stream.write_all(b"SSH-2.0-OpenSSH").unwrap());
    let garbage = HandshakeError::Garbage;
    assert!(
        matches!(error, DialError::Handshake { error: e, .. } if e.to_string() == garbage.to_string())
    );
}

#[test]
fn what_is_written_behind_a_hello_is_not_read_with_it() {
    let mut bytes = Vec::new();
    write_message(&mut bytes, &data(1)).unwrap();
    bytes.extend_from_slice(b"the first frame");
    let mut reader = Cursor::new(bytes);
    assert_eq!(read_message::<Hello>(&mut reader).unwrap(), data(1));
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "the first frame");

    let long = Hello { run: "x".repeat(HANDSHAKE_BYTES_MAX), ..hello() };
    let error = write_message(&mut Vec::new(), &long).unwrap_err();
    assert!(matches!(error, HandshakeError::OursTooLong { .. }));
}
