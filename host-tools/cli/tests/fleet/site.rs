//! A home with keys and releases, and an embedded broker.

use crate::common::process::{PATIENCE, Running};
use crate::common::{Place, model, snapshot};
use edgeward::sync::Desired;
use edgeward::topic;
use edgeward::trust::Role;
use edgeward::trust::cose::ContentType;
use edgeward::trust::ring::RingVerifier;
use edgeward::trust::root::Root;
use edgeward_host::keys::KeyStore;
use edgeward_host::mqtt::{Event, Message, Mqtt, Options};
use std::net::SocketAddr;
use std::ops::Deref;
use std::time::Instant;

/// The fleet that commands concern unless told otherwise.
pub const FLEET: &str = "default";

/// A home with keys and the motion model's first release, signed and unsigned, and a broker.
pub struct Site {
    place: Place,
    broker: SocketAddr,
    _broker: Running,
}

impl Deref for Site {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Site {
    pub fn new() -> Self {
        let mut place = Place::new();
        let running = place.start(&["broker", "--port", "0"]);
        let printed = running.first_json();
        snapshot("broker", &printed);
        let address = printed["mqtt_3_1_1"].as_str().expect("an address");
        let broker: SocketAddr = address.parse().expect("an address");
        place.use_broker(broker.to_string());
        let manifest = model("v1.toml");
        place.json(&["keys", "init"], 0);
        place.json(&["pack", &manifest, "--out", "plain.bundle"], 0);
        place.json(&["pack", &manifest, "--out", "v1.bundle", "--sign"], 0);
        Self {
            place,
            broker,
            _broker: running,
        }
    }

    /// `edgeward serve`, once it collects.
    pub fn serve(&self) -> Running {
        let serve = self.start(&["serve", "--http", "127.0.0.1:0"]);
        assert_eq!(serve.first_json()["fleet"], FLEET);
        serve
    }

    pub fn keys(&self) -> KeyStore {
        KeyStore::at(&self.path(".edgeward"))
    }

    pub fn root(&self) -> Root {
        self.keys().root().expect("a root")
    }

    pub fn client(&self, name: &str) -> Mqtt {
        let (host, port) = (self.broker.ip().to_string(), self.broker.port());
        Mqtt::connect(&Options::new(name, host, port))
    }

    /// What the broker keeps under a topic.
    pub fn retained(&self, topic: &str) -> Vec<u8> {
        let mqtt = self.client("reader");
        mqtt.subscribe_and_wait(topic, PATIENCE).expect("granted");
        next_message(&mqtt).payload
    }

    /// The desired state that the broker keeps, when the fleet's rollout keys signed it.
    pub fn desired(&self) -> Desired {
        let bytes = self.retained(&topic::desired(FLEET));
        let (role, content) = (Role::Rollout, ContentType::Desired);
        let root = self.root();
        let payload = root.verify_threshold(role, content, &bytes, &RingVerifier);
        let payload = payload.expect("signed by the rollout role");
        postcard::from_bytes(payload).expect("a desired state")
    }
}

/// The next message that comes.
pub fn next_message(mqtt: &Mqtt) -> Message {
    let begin = Instant::now();
    loop {
        let left = PATIENCE.saturating_sub(begin.elapsed());
        assert!(!left.is_zero(), "no message within {PATIENCE:?}");
        if let Some(Event::Message(message)) = mqtt.recv_timeout(left) {
            return message;
        }
    }
}
