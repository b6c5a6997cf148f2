//! The host's client against the embedded broker.

use edgeward_host::broker::{self, Options as BrokerOptions};
use edgeward_host::mqtt::{Event, Message, Mqtt, Options};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn client(name: &str, port: u16) -> Mqtt {
    Mqtt::connect(&Options {
        client_id: name.to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        credentials: None,
    })
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
    let options = BrokerOptions {
        port: 0,
        ..BrokerOptions::default()
    };
    let port = broker::start(&options).expect("broker").v4.port();
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
fn a_taken_port_is_an_error_that_says_so() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
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
