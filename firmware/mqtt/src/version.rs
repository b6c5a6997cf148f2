//! Which version of MQTT a connection speaks: 5 where it is offered, 3.1.1 elsewhere.
//!
//! A broker that knows no version 5 answers such a client with "unacceptable protocol version" in the
//! shape of 3.1.1, or closes the connection without a word (rumqttd's listener for 3.1.1 does). A
//! closed connection may mean something else, so only a version that the broker took is remembered.

use crate::Failure;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Handshakes in a row that ended without an answer before what was learnt is doubted.
const DOUBT: u8 = 3;

/// A version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

impl Version {
    fn other(self) -> Self {
        match self {
            Self::V4 => Self::V5,
            Self::V5 => Self::V4,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "3.1.1",
            Self::V5 => "5",
        })
    }
}

/// Which versions of MQTT may be spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Protocol {
    /// 5 where the broker offers it, else 3.1.1.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// MQTT 3.1.1 only.
    #[serde(rename = "3.1.1")]
    V4,
    /// MQTT 5 only.
    #[serde(rename = "5")]
    V5,
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "3.1.1" => Ok(Self::V4),
            "5" => Ok(Self::V5),
            _ => Err(format!("{text:?} is not auto, 5 or 3.1.1")),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::V4 => "3.1.1",
            Self::V5 => "5",
        })
    }
}

/// What is known about the versions that a broker speaks. It lives as long as the client whose
/// connections it serves.
#[derive(Debug, Clone)]
pub struct Negotiation {
    pinned: bool,
    next: Version,
    learnt: bool,
    unanswered: u8,
}

impl Negotiation {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self {
            pinned: protocol != Protocol::Auto,
            next: match protocol {
                Protocol::V4 => Version::V4,
                Protocol::Auto | Protocol::V5 => Version::V5,
            },
            learnt: false,
            unanswered: 0,
        }
    }

    /// What the next connection shall speak.
    #[must_use]
    pub fn version(&self) -> Version {
        self.next
    }

    /// The broker took a connection in that version.
    pub fn connected(&mut self) {
        self.learnt = true;
        self.unanswered = 0;
    }

    /// A connection ended before the broker took it. True when the other version should be tried at
    /// once, without the pause that goes before a next attempt.
    pub fn failed(&mut self, failure: &Failure) -> bool {
        if self.pinned {
            return false;
        }
        let (refused, unanswered) = match failure {
            Failure::Version => (true, false),
            Failure::Closed | Failure::Garbled(_) | Failure::Silent => (false, true),
            _ => (false, false),
        };
        if !refused && !unanswered {
            return false;
        }
        self.unanswered = self.unanswered.saturating_add(1);
        if self.learnt && !refused && self.unanswered < DOUBT {
            return false;
        }
        self.learnt = false;
        self.next = self.next.other();
        // Each version is tried once before there is a pause; silence took its time already.
        self.next == Version::V4 && *failure != Failure::Silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Failure = Failure::Version;
    const CLOSED: Failure = Failure::Closed;

    fn away() -> Failure {
        Failure::Unreachable("nobody there".into())
    }

    #[test]
    fn five_is_tried_first_and_remembered() {
        let mut line = Negotiation::new(Protocol::Auto);
        assert_eq!(line.version(), Version::V5);
        assert!(!line.failed(&away()));
        assert_eq!(line.version(), Version::V5);
        line.connected();
        assert!(!line.failed(&CLOSED));
        assert!(!line.failed(&away()));
        assert_eq!(
            line.version(),
            Version::V5,
            "one closed connection proves nothing"
        );
    }

    #[test]
    fn a_broker_without_five_is_spoken_to_in_3_1_1_at_once() {
        for failure in [REFUSED, CLOSED, Failure::Garbled("x".into())] {
            let mut line = Negotiation::new(Protocol::Auto);
            assert!(line.failed(&failure), "{failure:?}");
            assert_eq!(line.version(), Version::V4);
            line.connected();
            assert!(!line.failed(&away()));
            assert!(!line.failed(&CLOSED));
            assert_eq!(line.version(), Version::V4, "remembered");
        }
    }

    #[test]
    fn whoever_closes_in_both_versions_is_not_asked_without_pauses() {
        let mut line = Negotiation::new(Protocol::Auto);
        assert!(line.failed(&CLOSED));
        assert!(!line.failed(&CLOSED));
        assert_eq!(line.version(), Version::V5);
        assert!(line.failed(&CLOSED));
    }

    #[test]
    fn a_broker_that_was_replaced_is_learnt_anew() {
        let mut line = Negotiation::new(Protocol::Auto);
        line.connected();
        assert!(line.failed(&REFUSED), "it says so itself");
        assert_eq!(line.version(), Version::V4);
        let mut line = Negotiation::new(Protocol::Auto);
        line.connected();
        let tries = (0..DOUBT).filter(|_| line.failed(&CLOSED)).count();
        assert_eq!((tries, line.version()), (1, Version::V4));
        // The other way round there is a pause first.
        line.connected();
        for _ in 0..DOUBT {
            assert!(!line.failed(&CLOSED));
        }
        assert_eq!(line.version(), Version::V5);
    }

    #[test]
    fn a_pinned_version_stays() {
        for (protocol, version) in [(Protocol::V4, Version::V4), (Protocol::V5, Version::V5)] {
            let mut line = Negotiation::new(protocol);
            for failure in [&REFUSED, &CLOSED, &away()] {
                assert!(!line.failed(failure));
                assert_eq!(line.version(), version);
            }
        }
    }

    #[test]
    fn protocols_are_read_as_they_are_printed() {
        for protocol in [Protocol::Auto, Protocol::V4, Protocol::V5] {
            assert_eq!(protocol.to_string().parse(), Ok(protocol));
        }
        assert!("4".parse::<Protocol>().is_err());
    }
}
