//! A board's connection against brokers that misbehave.

use super::*;
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpListener;

fn options(port: u16) -> Options {
    Options {
        line: line("127.0.0.1", port, "t", 5),
        protocol: Protocol::V4,
        reconnect_max: Duration::from_secs(1),
        stall: Duration::from_secs(1),
    }
}

#[test]
fn no_two_boards_have_the_same_name_at_the_broker() {
    let id = |fleet: &str, device: &str| {
        let text = format!(
            "fleet = \"{fleet}\"\ndevice = \"{device}\"\nbroker = {{ host = \"localhost\" }}\n\
             source = {{ listen = \"samples.sock\" }}"
        );
        let config = Config::parse(&text, std::path::Path::new("/x")).unwrap();
        super::options(&config).unwrap().line.client_id
    };
    assert_eq!(id("plant-7", "press-03"), "edgeward.plant-7.press-03");
    assert_ne!(id("a-b", "c"), id("a", "b-c"));
    assert_ne!(id("a_b", "c"), id("a", "b_c"));
}

/// Polls until `ended` says so; what is new unparks this thread.
fn poll_until(
    mqtt: &mut Mqtt,
    what: &str,
    handle: &mut dyn FnMut(Event<'_>),
    mut ended: impl FnMut(&Mqtt) -> bool,
) {
    let limit = Duration::from_secs(60);
    let deadline = Instant::now() + limit;
    while !ended(mqtt) {
        let subscriptions = &mqtt.subscriptions;
        assert!(
            Instant::now() < deadline,
            "waited {limit:?} in vain until {what}; {subscriptions:?}"
        );
        if !mqtt.poll(handle) {
            thread::park_timeout(Duration::from_millis(10));
        }
    }
}

/// Polls until an event has come.
fn wait_for(mqtt: &mut Mqtt, what: &str, wanted: fn(&Event<'_>) -> bool) {
    let seen = Cell::new(false);
    let mut look = |event: Event<'_>| seen.set(seen.get() || wanted(&event));
    poll_until(mqtt, what, &mut look, |_| seen.get());
}

fn connected(event: &Event<'_>) -> bool {
    matches!(event, Event::Connected { .. })
}

/// A broker that takes connections and subscriptions, and acknowledges no publish.
fn deaf_broker() -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // CONNACK: no session, accepted.
            stream.write_all(&[0x20, 2, 0, 0]).unwrap();
            let mut bytes = [0; 1024];
            while let Ok(read @ 1..) = stream.read(&mut bytes) {
                hears.lock().unwrap().extend(&bytes[..read]);
            }
        }
    });
    (port, heard)
}

#[test]
fn a_connection_without_progress_is_given_up_and_subscriptions_are_asked_again() {
    let (port, heard) = deaf_broker();
    let mut mqtt = Mqtt::new(options(port));
    mqtt.subscribe("a/topic").unwrap();
    mqtt.connect();
    wait_for(&mut mqtt, "it is connected", connected);
    mqtt.publish("lost", b"x", false).unwrap();
    let disconnected = |event: &Event<'_>| *event == Event::Disconnected;
    wait_for(&mut mqtt, "it gives up", disconnected);
    wait_for(&mut mqtt, "it is connected again", connected);
    let asked = || {
        let heard = heard.lock().unwrap();
        heard.windows(7).filter(|part| part == b"a/topic").count()
    };
    poll_until(&mut mqtt, "it asks again", &mut |_| {}, |_| asked() >= 2);
}

#[test]
fn a_subscription_that_got_lost_on_the_way_is_asked_again_although_the_session_is_kept() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, hears) = std::sync::mpsc::channel();
    let (end, ends) = std::sync::mpsc::channel();
    thread::spawn(move || {
        // The first connection ends before the broker has read any subscription.
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&[0x20, 2, 0, 0]).unwrap();
        ends.recv().unwrap();
        drop(stream);
        // CONNACK: the session is there, accepted.
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&[0x20, 2, 1, 0]).unwrap();
        let (mut heard, mut bytes) = (Vec::<u8>::new(), [0; 1024]);
        while let Ok(read @ 1..) = stream.read(&mut bytes) {
            heard.extend(&bytes[..read]);
            if heard.windows(7).any(|part| part == b"a/topic") {
                asked.send(()).unwrap();
                return;
            }
        }
    });
    let mut mqtt = Mqtt::new(options(port));
    mqtt.subscribe("a/topic").unwrap();
    mqtt.connect();
    wait_for(&mut mqtt, "it is connected", connected);
    assert_eq!(mqtt.subscriptions.next(Instant::now()), None, "on its way");
    end.send(()).unwrap();
    let asked_again = |_: &Mqtt| hears.try_recv().is_ok();
    poll_until(&mut mqtt, "it asks again", &mut |_| {}, asked_again);
}

/// A packet of MQTT 3.1.1 from a stream: its first byte, and its body.
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
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Refuses `a` twice, then grants it and delivers what is retained there; grants `b` at once.
    let broker = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        while let Some((kind, body)) = packet(&mut stream) {
            match kind >> 4 {
                1 => stream.write_all(&[0x20, 2, 0, 0]).unwrap(),
                8 => {
                    let filter = body[4];
                    asked.push(filter);
                    let refused =
                        filter == b'a' && asked.iter().filter(|&&it| it == b'a').count() < 3;
                    let code = if refused { 0x80 } else { 1 };
                    stream
                        .write_all(&[0x90, 3, body[0], body[1], code])
                        .unwrap();
                    if filter == b'a' && !refused {
                        stream.write_all(&[0x31, 4, 0, 1, b'a', b'!']).unwrap();
                    }
                }
                12 => stream.write_all(&[0xd0, 0]).unwrap(),
                _ => {}
            }
        }
        asked
    });
    let mut mqtt = Mqtt::new(Options {
        stall: Duration::from_secs(60),
        ..options(port)
    });
    mqtt.subscribe("a").unwrap();
    mqtt.subscribe("b").unwrap();
    mqtt.connect();
    let (refused, connections) = (Cell::new(0), Cell::new(0));
    let came = Cell::new(false);
    let mut look = |event: Event<'_>| match event {
        Event::Connected { .. } => connections.set(connections.get() + 1),
        Event::Message { payload, .. } => came.set(payload == b"!"),
        Event::Disconnected => {}
    };
    poll_until(&mut mqtt, "it is granted", &mut look, |mqtt| {
        refused.set(refused.get().max(mqtt.refused_subscriptions()));
        came.get()
    });
    assert_eq!((refused.get(), connections.get()), (1, 1));
    assert_eq!(
        mqtt.refused_subscriptions(),
        0,
        "it was granted before it delivered"
    );
    mqtt.disconnect();
    let asked = broker.join().unwrap();
    assert_eq!(asked.iter().filter(|&&filter| filter == b'a').count(), 3);
    assert_eq!(asked.iter().filter(|&&filter| filter == b'b').count(), 1);
}

#[test]
fn without_a_broker_requests_come_back_at_once() {
    let mut mqtt = Mqtt::new(options(9));
    mqtt.connect();
    assert_eq!(
        mqtt.publish("a/b", b"x", false),
        Err(TransportError::Disconnected)
    );
    assert_eq!(
        mqtt.publish("a/+", b"x", false),
        Err(TransportError::Invalid)
    );
    let large = vec![0; PAYLOAD_BYTES_MAX + 1];
    assert_eq!(
        mqtt.publish("a", &large, false),
        Err(TransportError::Invalid)
    );
    for i in 0..super::super::subscriptions::MAX {
        mqtt.subscribe(&format!("a/{i}")).unwrap();
    }
    assert_eq!(mqtt.subscribe("one/more"), Err(TransportError::Full));
    assert!(!mqtt.poll(&mut |_| panic!("no event without a broker")));
    mqtt.disconnect();
}
