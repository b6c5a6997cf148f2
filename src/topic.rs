//! The topics of the broker, written in one place for boards and host.
//!
//! | topic | by | retained | payload |
//! |---|---|---|---|
//! | `edgeward/v1/{fleet}/{device}/birth` | board | yes | frame |
//! | `edgeward/v1/{fleet}/{device}/state` | board, last will | yes | `online` or `offline` |
//! | `edgeward/v1/{fleet}/{device}/up/summary` | board | no | frame |
//! | `edgeward/v1/{fleet}/{device}/up/event` | board | no | frame |
//! | `edgeward/v1/{fleet}/{device}/up/record` | board | no | part of a flight record |
//! | `edgeward/v1/{fleet}/{device}/down/ack` | host | no | signed [`crate::telemetry::Ack`] |
//! | `edgeward/v1/{fleet}/{device}/down/cmd` | host | no | signed [`crate::telemetry::pull::Command`] |
//! | `edgeward/v1/{fleet}/desired` | host | yes | signed [`crate::sync::Desired`] |
//! | `edgeward/v1/{fleet}/root/{version}` | host | yes | signed [`crate::trust::root::Root`] |
//! | `edgeward/v1/blob/{digest}/{n}` | host | yes | bytes `4096 n` to `4096 (n + 1)` of the bundle |

use crate::trust::Digest32;
use heapless::String;

/// Longest topic in bytes: prefix, two names of 32 bytes and the longest ending.
pub const TOPIC_BYTES: usize = 112;
/// A topic.
pub type Topic = String<TOPIC_BYTES>;
/// What every topic starts with.
pub const PREFIX: &str = "edgeward/v1";

/// What a topic of one device carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Inventory.
    Birth,
    /// `online` or `offline`.
    State,
    /// Summaries.
    Summary,
    /// Events.
    Event,
    /// Parts of a flight record.
    Record,
    /// Acknowledgements.
    Ack,
    /// Commands.
    Command,
}

impl Channel {
    /// All channels.
    pub const ALL: [Self; 7] = [
        Self::Birth,
        Self::State,
        Self::Summary,
        Self::Event,
        Self::Record,
        Self::Ack,
        Self::Command,
    ];

    /// The topic's ending.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Birth => "birth",
            Self::State => "state",
            Self::Summary => "up/summary",
            Self::Event => "up/event",
            Self::Record => "up/record",
            Self::Ack => "down/ack",
            Self::Command => "down/cmd",
        }
    }
}

/// Whether `name` may name a fleet, a device or a rollout: 1 to 32 ASCII letters, digits, `-`, `_`.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// The topic of one device's channel. A name that is too long for a topic is left out of it; [`is_name`] guards
/// against that.
#[must_use]
pub fn device(fleet: &str, device: &str, channel: Channel) -> Topic {
    joined(&["/", fleet, "/", device, "/", channel.suffix()])
}

/// The filter for one channel of all devices of a fleet.
#[must_use]
pub fn devices(fleet: &str, channel: Channel) -> Topic {
    device(fleet, "+", channel)
}

/// The fleet's desired state.
#[must_use]
pub fn desired(fleet: &str) -> Topic {
    joined(&["/", fleet, "/desired"])
}

/// One version of the fleet's trust root.
#[must_use]
pub fn root(fleet: &str, version: u32) -> Topic {
    let mut topic = joined(&["/", fleet, "/", "root", "/"]);
    push_number(&mut topic, version);
    topic
}

/// One chunk of a bundle.
#[must_use]
pub fn blob(digest: &Digest32, chunk: u32) -> Topic {
    let mut topic = joined(&["/blob/"]);
    for byte in digest {
        push_digit(&mut topic, byte >> 4);
        push_digit(&mut topic, byte & 15);
    }
    push(&mut topic, "/");
    push_number(&mut topic, chunk);
    topic
}

/// What a received topic is, as far as a board or the host listens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A device's channel.
    Device {
        /// The fleet.
        fleet: &'a str,
        /// The device.
        device: &'a str,
        /// Which channel.
        channel: Channel,
    },
    /// A fleet's desired state.
    Desired {
        /// The fleet.
        fleet: &'a str,
    },
    /// A fleet's trust root.
    Root {
        /// The fleet.
        fleet: &'a str,
        /// Its version.
        version: u32,
    },
    /// A chunk of a bundle.
    Blob {
        /// The bundle's digest.
        digest: Digest32,
        /// The chunk.
        chunk: u32,
    },
}

/// Reads a topic; `None` when it is none of ours.
#[must_use]
pub fn parse(topic: &str) -> Option<Parsed<'_>> {
    let rest = topic.strip_prefix(PREFIX)?.strip_prefix('/')?;
    let (first, rest) = split(rest)?;
    if !is_name(first) {
        return None;
    }
    if rest == "desired" {
        return Some(Parsed::Desired { fleet: first });
    }
    let (second, ending) = split(rest)?;
    // A fleet may be called so, too: no device has a name as long as a digest.
    if let ("blob", Some(digest)) = (first, parse_digest(second)) {
        let chunk = number(ending)?;
        return Some(Parsed::Blob { digest, chunk });
    }
    if let (true, Some(version)) = (second == "root", number(ending)) {
        return Some(Parsed::Root {
            fleet: first,
            version,
        });
    }
    let channel = Channel::ALL
        .into_iter()
        .find(|channel| channel.suffix() == ending)?;
    is_name(second).then_some(Parsed::Device {
        fleet: first,
        device: second,
        channel,
    })
}

/// What stands before the first slash, and behind it.
#[inline(never)]
fn split(text: &str) -> Option<(&str, &str)> {
    let at = text.bytes().position(|byte| byte == b'/')?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// A decimal number without sign or leading zeros, so that each topic has one spelling.
fn number(text: &str) -> Option<u32> {
    let canonical = text == "0" || !matches!(text.as_bytes(), [b'0' | b'+', ..]);
    text.parse().ok().filter(|_| canonical)
}

fn parse_digest(text: &str) -> Option<Digest32> {
    let bytes = text.as_bytes();
    if bytes.len() != 64 {
        return None;
    }
    let mut digest = [0; 32];
    for (out, pair) in digest.iter_mut().zip(bytes.chunks_exact(2)) {
        *out = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(digest)
}

fn nibble(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

/// A topic of parts behind [`PREFIX`], without `core::fmt` and all that it takes.
fn joined(parts: &[&str]) -> Topic {
    let mut topic = Topic::new();
    push(&mut topic, PREFIX);
    for part in parts {
        push(&mut topic, part);
    }
    topic
}

/// Without a part that does not fit, a topic fits nothing that the other side listens to. Those of names by
/// [`is_name`] all do.
fn push(topic: &mut Topic, part: &str) {
    let _ = topic.push_str(part);
}

fn push_number(topic: &mut Topic, number: u32) {
    let mut unit = 1;
    while number / unit > 9 {
        unit *= 10;
    }
    while unit > 0 {
        push_digit(topic, (number / unit % 10) as u8);
        unit /= 10;
    }
}

/// A hexadecimal digit.
fn push_digit(topic: &mut Topic, digit: u8) {
    if let Some(digit) = char::from_digit(digit.into(), 16) {
        let _ = topic.push(digit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LONGEST: &str = "a-fleet-with-a-name-of-32-bytes_";

    #[test]
    fn what_is_written_reads_back() {
        for channel in Channel::ALL {
            let topic = device(LONGEST, LONGEST, channel);
            let parsed = Parsed::Device {
                fleet: LONGEST,
                device: LONGEST,
                channel,
            };
            assert_eq!(parse(&topic), Some(parsed));
        }
        assert_eq!(parse(&desired("f")), Some(Parsed::Desired { fleet: "f" }));
        assert_eq!(
            parse(&root("f", 12)),
            Some(Parsed::Root {
                fleet: "f",
                version: 12
            })
        );
        let digest = [0xa5; 32];
        let topic = blob(&digest, u32::MAX);
        assert_eq!(
            parse(&topic),
            Some(Parsed::Blob {
                digest,
                chunk: u32::MAX
            })
        );
        assert!(topic.len() <= TOPIC_BYTES);
    }

    #[test]
    fn any_name_may_be_a_fleets_or_a_devices() {
        for name in ["blob", "root", "desired", "state"] {
            for (fleet, device_name) in [(name, "d"), ("f", name), (name, name)] {
                let parsed = Parsed::Device {
                    fleet,
                    device: device_name,
                    channel: Channel::Birth,
                };
                assert_eq!(
                    parse(&device(fleet, device_name, Channel::Birth)),
                    Some(parsed)
                );
            }
            assert_eq!(parse(&desired(name)), Some(Parsed::Desired { fleet: name }));
            let version = 2;
            let parsed = Parsed::Root {
                fleet: name,
                version,
            };
            assert_eq!(parse(&root(name, version)), Some(parsed));
        }
    }

    #[test]
    fn what_is_not_ours_is_nothing() {
        for topic in [
            "",
            "edgeward/v1",
            "edgeward/v2/f/desired",
            "edgeward/v1/f/d/up",
            "edgeward/v1/f/+/birth",
            "edgeward/v1/f/root/01",
            "edgeward/v1/blob/00/1",
            "edgeward/v1/f/d/birth/x",
            "edgeward/v1/f/d/down/command",
        ] {
            assert_eq!(parse(topic), None, "{topic}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_or_not(topic in ".{0,200}") {
            prop_assert_eq!(parse(&topic), None, "chance makes no topic of ours");
        }

        /// Whatever parses is written the same way: each topic has one spelling.
        #[test]
        fn whatever_parses_is_written_the_same(
            tail in "(f|blob|a/b|\\+)?/?(d|root|desired|[0-9a-f]{64}|[0-9a-fA-F]{62,66})/?\
                     (birth|state|up/summary|up/event|up/record|down/ack|down/cmd|[0-9]{1,11}|\\+1|)/?",
        ) {
            let topic = format!("{PREFIX}/{tail}");
            let written = match parse(&topic) {
                None => return Ok(()),
                Some(Parsed::Device { fleet, device: name, channel }) => device(fleet, name, channel),
                Some(Parsed::Desired { fleet }) => desired(fleet),
                Some(Parsed::Root { fleet, version }) => root(fleet, version),
                Some(Parsed::Blob { digest, chunk }) => blob(&digest, chunk),
            };
            prop_assert_eq!(written.as_str(), topic.as_str());
        }
    }
}
