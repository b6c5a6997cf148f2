//! The host's client against the embedded broker.

#[path = "../../../firmware/tests/common/ports.rs"]
mod ports;

use edgeward_host::broker::{self, Options as BrokerOptions};
use edgeward_host::mqtt::{
    Credentials, Event, Failure, Message, Mqtt, MqttError, Options, Protocol, Version,
};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn client(name: &str, port: u16) -> Mqtt {
    Mqtt::connect(&Options::new(name, "127.0.0.1", port))
}

fn start() -> u16 {
    let options = BrokerOptions {
        port: 0,
        ..BrokerOptions::default()
    };
    broker::start(&options).expect("broker").v4.port()
}

fn next_message(mqtt: &Mqtt) -> Message {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(Event::Message(message)) = mqtt.recv_timeout(Duration::from_millis(100)) {
            return message;
        }
    }
    panic!("no message within {PATIENCE:?}");
}

#[test]
fn retained_chunks_reach_a_late_subscriber_one_by_one_and_again() {
    chunks(start());
}

/// A packet of MQTT 3.1.1: its first byte, and its body.
fn packet(stream: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).ok()?;
    assert!(head[1] < 0x80, "the packets here are short");
    let mut body = vec![0; usize::from(head[1])];
    stream.read_exact(&mut body).ok()?;
    Some((head[0], body))
}

#[test]
fn a_refused_subscription_is_asked_for_again_on_the_same_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    // Refuses twice, then grants and delivers what is retained.
    let broker = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut asked = 0;
        while let Some((kind, body)) = packet(&mut stream) {
            let answer: &[u8] = match kind >> 4 {
                1 => &[0x20, 2, 0, 0],
                8 => {
                    asked += 1;
                    let code = if asked < 3 { 0x80 } else { 1 };
                    let ack = [0x90, 3, body[0], body[1], code];
                    stream.write_all(&ack).expect("written");
                    if asked < 3 {
                        &[]
                    } else {
                        &[0x31, 4, 0, 1, b'a', b'!']
                    }
                }
                12 => &[0xd0, 0],
                _ => &[],
            };
            stream.write_all(answer).expect("written");
        }
        asked
    });
    let mqtt = Mqtt::connect(&Options {
        protocol: Protocol::V4,
        ..Options::new("t", "127.0.0.1", port)
    });
    let refused = mqtt.subscribe_and_wait("a", PATIENCE);
    assert!(
        matches!(refused, Err(MqttError::Refused { .. })),
        "{refused:?}"
    );
    assert_eq!(next_message(&mqtt).payload, b"!");
    drop(mqtt);
    assert_eq!(broker.join().expect("it ends"), 3);
}

/// A Mosquitto that ends with its owner.
struct Mosquitto {
    process: std::process::Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Mosquitto {
    /// Nothing where it is not installed; a line says so.
    fn start(access: Option<&str>) -> Option<Self> {
        let named = std::env::var_os("EDGEWARD_MOSQUITTO").map(std::path::PathBuf::from);
        let program = named.unwrap_or_else(|| "/usr/sbin/mosquitto".into());
        if !program.exists() {
            println!("skipped: no {}", program.display());
            return None;
        }
        let port = ports::free_port();
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("mosquitto.conf");
        // As root, Mosquitto would become a user who may not read this folder.
        let mut settings = format!("user root\nlistener {port} 127.0.0.1\nallow_anonymous true\n");
        if let Some(access) = access {
            let path = folder.path().join("access");
            std::fs::write(&path, access).expect("written");
            settings += &format!("acl_file {}\n", path.display());
        }
        std::fs::write(&file, settings).expect("written");
        let process = std::process::Command::new(program)
            .arg("-c")
            .arg(&file)
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("Mosquitto starts");
        let mosquitto = Self {
            process,
            port,
            folder,
        };
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        broker::wait_for(address, PATIENCE).expect("it listens");
        Some(mosquitto)
    }
}

#[test]
fn mosquitto_does_as_well() {
    let Some(mosquitto) = Mosquitto::start(None) else {
        return;
    };
    assert!(mosquitto.folder.path().exists());
    chunks(mosquitto.port);
}

/// The version that a client speaks once it is connected.
fn spoken(protocol: Protocol, port: u16) -> Option<Version> {
    let mqtt = Mqtt::connect(&Options {
        protocol,
        ..Options::new("versions", "127.0.0.1", port)
    });
    mqtt.publish("a", b"b", false);
    mqtt.flush(Duration::from_secs(5)).ok()?;
    mqtt.version()
}

#[test]
fn five_is_spoken_where_it_is_offered() {
    let Some(mosquitto) = Mosquitto::start(None) else {
        return;
    };
    let port = mosquitto.port;
    assert_eq!(spoken(Protocol::Auto, port), Some(Version::V5));
    assert_eq!(spoken(Protocol::V4, port), Some(Version::V4));
    assert_eq!(spoken(Protocol::V5, port), Some(Version::V5));
}

#[test]
fn an_embedded_broker_that_closes_on_five_is_spoken_to_in_3_1_1() {
    let port = start();
    assert_eq!(spoken(Protocol::Auto, port), Some(Version::V4));
    assert_eq!(spoken(Protocol::V4, port), Some(Version::V4));
    let mqtt = Mqtt::connect(&Options {
        protocol: Protocol::V5,
        ..Options::new("pinned", "127.0.0.1", port)
    });
    mqtt.publish("a", b"b", false);
    let error = mqtt.flush(Duration::from_secs(1)).expect_err("pinned to 5");
    assert!(error.to_string().contains("without an answer"), "{error}");
}

/// A broker that answers each first packet as `answer` says, and then takes what comes. The packets
/// that it got.
fn answering(answer: fn(version: u8) -> &'static [u8]) -> (u16, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let (got, packets) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut bytes = [0; 4096];
            let mut first = true;
            while let Ok(len @ 1..) = stream.read(&mut bytes) {
                // Not every test looks at them.
                let _ = got.send(bytes[..len].to_vec());
                // The protocol's level follows its name.
                if std::mem::take(&mut first) {
                    let said = answer(bytes[8]);
                    if stream.write_all(said).is_err() || said.get(3) != Some(&0) {
                        break;
                    }
                }
            }
        }
    });
    (port, packets)
}

#[test]
fn a_broker_that_refuses_five_by_its_code_is_spoken_to_in_3_1_1() {
    let (port, packets) = answering(|version| match version {
        // "Unacceptable protocol version", as brokers of 3.1.1 say it.
        5 => &[0x20, 2, 0, 1],
        _ => &[0x20, 2, 0, 0],
    });
    let mqtt = client("asks", port);
    mqtt.connected(PATIENCE).expect("connected");
    assert_eq!(mqtt.version(), Some(Version::V4));
    let levels: Vec<u8> = packets.try_iter().map(|packet| packet[8]).collect();
    assert_eq!(levels[..2], [5, 4], "one try each");
}

#[test]
fn a_refused_password_is_said_at_once_in_both_versions() {
    for (protocol, answer) in [
        (
            Protocol::V4,
            (|_| &[0x20, 2, 0, 4]) as fn(u8) -> &'static [u8],
        ),
        (Protocol::V5, |_| &[0x20, 3, 0, 0x86, 0]),
        (Protocol::Auto, |_| &[0x20, 3, 0, 0x86, 0]),
    ] {
        let (port, _) = answering(answer);
        let mqtt = Mqtt::connect(&Options {
            protocol,
            credentials: Some(Credentials::new("ali", "sesame")),
            ..Options::new("refused", "127.0.0.1", port)
        });
        mqtt.publish("a", b"b", false);
        let error = mqtt.flush(PATIENCE).expect_err("refused");
        let MqttError::NoConnection { failure, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*failure, Failure::Credentials);
        assert!(!format!("{error:?} {mqtt:?}").contains("sesame"));
    }
}

#[test]
fn a_message_may_expire_in_version_five() {
    let (port, packets) = answering(|_| &[0x20, 3, 0, 0, 0]);
    let mqtt = client("expires", port);
    mqtt.publish_for("t", b"x", Duration::from_secs(3600));
    // Five bytes of properties: message expiry interval, 3600 s.
    let wanted = [b't', 0, 1, 5, 2, 0, 0, 0x0e, 0x10, b'x'];
    let deadline = Instant::now() + PATIENCE;
    let mut came = Vec::new();
    while !came.windows(wanted.len()).any(|part| part == wanted) {
        let left = deadline.saturating_duration_since(Instant::now());
        let more = packets.recv_timeout(left);
        came.extend(more.unwrap_or_else(|error| panic!("{error}: {came:?}")));
    }
}

#[test]
fn what_an_access_list_forbids_is_an_error_with_five() {
    let access = "topic readwrite open/#\n";
    let Some(mosquitto) = Mosquitto::start(Some(access)) else {
        return;
    };
    let mqtt = client("limited", mosquitto.port);
    mqtt.publish("open/a", b"b", false);
    mqtt.flush(PATIENCE).expect("allowed");
    mqtt.publish("closed/a", b"b", false);
    let error = mqtt.flush(PATIENCE).expect_err("forbidden").to_string();
    assert!(
        error.contains("closed/a") && error.contains("NotAuthorized"),
        "{error}"
    );
    mqtt.publish("open/a", b"b", false);
    mqtt.flush(PATIENCE).expect("told of once");
}

fn chunks(port: u16) {
    let publisher = client("publisher", port);
    let chunk = vec![0xa5; 4096];
    for n in 0..300 {
        publisher.maintain(&format!("blob/{n}"), &chunk);
    }
    publisher.flush(PATIENCE).expect("all acknowledged");
    for round in 0..2 {
        let subscriber = client(&format!("subscriber-{round}"), port);
        for n in (0..300).step_by(37) {
            subscriber.subscribe(&format!("blob/{n}"));
            let message = next_message(&subscriber);
            assert_eq!(
                (message.topic.as_str(), message.payload.len()),
                (&*format!("blob/{n}"), 4096)
            );
            assert!(message.retain);
        }
    }
    publisher.clear("blob/0");
    publisher.flush(PATIENCE).expect("cleared");
    let late = client("late", port);
    late.subscribe("blob/0");
    late.subscribe("blob/37");
    assert_eq!(
        next_message(&late).topic,
        "blob/37",
        "a cleared message is not delivered"
    );
}

#[test]
fn who_is_thrown_off_again_and_again_comes_back_ever_later() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let _mqtt = Mqtt::connect(&Options {
        protocol: Protocol::V4,
        ..Options::new("twin", "127.0.0.1", port)
    });
    let mut begun = None;
    for _ in 0..6 {
        let (mut stream, _) = listener.accept().expect("it comes again");
        let begun = begun.get_or_insert_with(Instant::now);
        let mut bytes = [0; 4096];
        assert!(stream.read(&mut bytes).expect("a packet") > 0);
        stream.write_all(&[0x20, 2, 0, 0]).expect("accepted");
        // What a broker does when another client of that name comes.
        drop(stream);
        assert!(begun.elapsed() < PATIENCE);
    }
    // Pauses of at least half of 100, 200, 400, 800 and 1600 ms.
    let took = begun.expect("it came").elapsed();
    assert!(took >= Duration::from_millis(1550), "{took:?}");
}

#[test]
fn a_taken_port_is_an_error_that_says_so() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = holder.local_addr().expect("bound").port();
    let options = BrokerOptions {
        port,
        ..BrokerOptions::default()
    };
    let error = broker::start(&options)
        .expect_err("the port is taken")
        .to_string();
    assert!(
        error.contains(&port.to_string()) && error.contains("choose another"),
        "{error}"
    );
}

#[test]
fn nothing_is_acknowledged_by_nobody() {
    let mqtt = client("lonely", 1);
    mqtt.publish("a", b"b", false);
    let error = mqtt
        .flush(Duration::from_millis(300))
        .expect_err("nobody listens");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    assert_eq!(mqtt.waiting(), 1);
}

#[test]
fn a_subscription_that_stands_brings_the_retained_message_once() {
    let port = start();
    let publisher = client("publisher", port);
    publisher.publish("a", b"1", true);
    publisher.flush(PATIENCE).expect("acknowledged");
    let subscriber = client("subscriber", port);
    subscriber
        .subscribe_and_wait("a", PATIENCE)
        .expect("granted");
    assert_eq!(next_message(&subscriber).payload, b"1");
    // Again: the next message that comes is a new one.
    subscriber
        .subscribe_and_wait("a", PATIENCE)
        .expect("granted");
    publisher.publish("a", b"2", false);
    assert_eq!(next_message(&subscriber).payload, b"2");
    // After the end of the subscription, a new one brings it again.
    subscriber.unsubscribe("a");
    subscriber
        .subscribe_and_wait("a", PATIENCE)
        .expect("granted");
    assert_eq!(next_message(&subscriber).payload, b"1");
}

#[test]
fn what_a_slow_owner_leaves_is_kept_in_order() {
    let port = start();
    let publisher = client("publisher", port);
    let subscriber = client("subscriber", port);
    subscriber
        .subscribe_and_wait("n", PATIENCE)
        .expect("granted");
    for n in 0..3000u32 {
        publisher.publish("n", &n.to_le_bytes(), false);
    }
    publisher.flush(PATIENCE).expect("acknowledged");
    for n in 0..3000u32 {
        assert_eq!(next_message(&subscriber).payload, n.to_le_bytes());
    }
}

/// A broker behind a line on which each connection takes a fifth of a second, longer than the client's
/// first pause between two tries; it forwards what is said, and ends a connection when told to. Returns
/// its port and how many connections there were.
fn slow_gate(
    target: u16,
    cuts: Arc<std::sync::atomic::AtomicBool>,
) -> (u16, Arc<std::sync::atomic::AtomicU32>) {
    use std::net::{Shutdown, TcpStream};
    use std::sync::atomic::Ordering;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let connections = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = Arc::clone(&connections);
    std::thread::spawn(move || {
        for incoming in listener.incoming() {
            let Ok(near) = incoming else { return };
            count.fetch_add(1, Ordering::SeqCst);
            let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else {
                continue;
            };
            std::thread::sleep(Duration::from_millis(200));
            for (mut from, mut to) in [
                (
                    near.try_clone().expect("open"),
                    far.try_clone().expect("open"),
                ),
                (far, near),
            ] {
                let cuts = Arc::clone(&cuts);
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(len @ 1..) = from.read(&mut buffer) {
                        if cuts.swap(false, Ordering::SeqCst)
                            || to.write_all(&buffer[..len]).is_err()
                        {
                            break;
                        }
                    }
                    let _ = from.shutdown(Shutdown::Both);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    (port, connections)
}

#[test]
fn over_a_slow_line_that_breaks_everything_arrives() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let port = start();
    let cuts = Arc::new(AtomicBool::new(false));
    let (gate, connections) = slow_gate(port, Arc::clone(&cuts));
    let subscriber = client("subscriber", port);
    subscriber
        .subscribe_and_wait("n", PATIENCE)
        .expect("granted");
    let publisher = client("publisher", gate);
    publisher.maintain("kept", b"yes");
    for n in 0..300u32 {
        publisher.publish("n", &n.to_le_bytes(), false);
        if n % 100 == 50 {
            publisher.flush(PATIENCE).expect("acknowledged");
            cuts.store(true, Ordering::SeqCst);
        }
    }
    publisher.flush(PATIENCE).expect("acknowledged");
    let mut missing: std::collections::BTreeSet<u32> = (0..300).collect();
    while !missing.is_empty() {
        let payload = next_message(&subscriber).payload;
        let n = u32::from_le_bytes(payload.try_into().expect("four bytes"));
        missing.remove(&n);
    }
    // Cleared behind its back, the maintained message is there again after the next connection.
    let other = client("other", port);
    other.publish("kept", b"", true);
    other.flush(PATIENCE).expect("acknowledged");
    cuts.store(true, Ordering::SeqCst);
    publisher.publish("n", &[0; 4], false);
    publisher.flush(PATIENCE).expect("acknowledged");
    other.subscribe("kept");
    assert_eq!(next_message(&other).payload, b"yes");
    let connections = connections.load(Ordering::SeqCst);
    assert!(
        connections >= 5,
        "cut four times, connected {connections} times"
    );
}

/// A connection at which any bytes come, or packets of any kind and content: before the broker's welcome, or behind
/// it.
fn nonsense() -> impl Strategy<Value = (bool, Vec<u8>)> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..100);
    let packet = (any::<u8>(), bytes()).prop_map(|(kind, body)| {
        let length = u8::try_from(body.len()).expect("short");
        [&[kind, length], &body[..]].concat()
    });
    let packets = proptest::collection::vec(packet, 1..4).prop_map(|packets| packets.concat());
    (any::<bool>(), prop_oneof![bytes(), packets])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever a broker says, its next connection is a new beginning.
    #[test]
    fn a_broker_that_says_nonsense_is_come_back_to(
        five in any::<bool>(),
        (welcomes, nonsense) in nonsense(),
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let welcome: &[u8] = if five { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] };
        let (again, came_again) = channel();
        let broker = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            let (mut stream, _) = listener.accept().expect("a client");
            let _ = stream.read(&mut bytes);
            let first = if welcomes { welcome } else { &[] };
            // It may be gone before it heard everything.
            let _ = stream.write_all(&[first, &nonsense].concat());
            let _ = stream.shutdown(Shutdown::Write);
            while let Ok(1..) = stream.read(&mut bytes) {}
            let (mut stream, _) = listener.accept().expect("the client again");
            let _ = stream.read(&mut bytes);
            again.send(()).expect("somebody waits");
            stream.write_all(welcome).expect("welcomed");
            while let Ok(1..) = stream.read(&mut bytes) {}
        });
        let mqtt = Mqtt::connect(&Options {
            protocol: if five { Protocol::V5 } else { Protocol::V4 },
            ..Options::new("patient", "127.0.0.1", port)
        });
        prop_assert!(came_again.recv_timeout(PATIENCE).is_ok(), "it never came back");
        let deadline = Instant::now() + PATIENCE;
        let (mut left, mut back) = (false, false);
        // What was heard before the end of the first connection is told first.
        while !back && Instant::now() < deadline {
            match mqtt.recv_timeout(Duration::from_millis(100)) {
                Some(Event::Connected) => back = left,
                Some(Event::Disconnected(_)) => left = true,
                _ => {}
            }
        }
        prop_assert!(back, "connected again after it was disconnected");
        drop(mqtt);
        prop_assert!(broker.join().is_ok());
    }
}
