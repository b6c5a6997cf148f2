//! The line to the broker: one connection, and what is said on it.

use core::cell::Cell;
use core::future::Future as _;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use edgeward_firmware::transport::{Transport, TransportError};
use minimq::{
    Connection, Error, Io, PeerError, PubError, Publication, QoS, ResourceError, ToPayload,
    TopicFilter,
};

/// The connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost;

/// Why a broker that was reached is not to be talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Name or password are wrong, or it wants some and the board has none.
    Who,
    /// Another reason, by its number in MQTT; 0xFF for one that is not known here.
    Reason(u8),
    /// It closed the connection.
    Closed,
    /// What it says is no MQTT 5.
    NotMqtt,
    /// It said nothing in time.
    Silent,
}

impl Refused {
    /// What an error of the first exchange means.
    pub fn of<E>(error: &Error<E>) -> Self {
        /// Of MQTT 5 (2.4): bad user name or password, and not authorized.
        const WHO: [u8; 2] = [0x86, 0x87];
        match error {
            Error::Peer(PeerError::Rejected(code)) => match u8::from(code) {
                code if WHO.contains(&code) => Self::Who,
                code => Self::Reason(code),
            },
            Error::Disconnected | Error::Transport(_) | Error::WriteZero => Self::Closed,
            _ => Self::NotMqtt,
        }
    }
}

#[cfg(feature = "defmt")]
impl defmt::Format for Refused {
    fn format(&self, f: defmt::Formatter<'_>) {
        match self {
            Self::Who => defmt::write!(f, "the broker refuses the board's user name or password"),
            Self::Reason(code) => defmt::write!(f, "the broker refuses: MQTT reason {:#x}", code),
            Self::Closed => defmt::write!(f, "the broker closed it before a word of MQTT"),
            Self::NotMqtt => defmt::write!(f, "the broker does not speak MQTT 5"),
            Self::Silent => defmt::write!(f, "the broker says nothing"),
        }
    }
}

/// Where the head's requests go while there is a connection.
pub(crate) struct Wire<'w, 'c, 'b, C: Io> {
    pub connection: &'w mut Connection<'c, 'b, C>,
    /// The task's own: timers take no other.
    pub waker: &'w Waker,
}

/// Where the head's requests go while there is no connection.
pub(crate) struct Offline;

impl Transport for Offline {
    fn publish(&mut self, _: &str, _: &[u8], _: bool) -> Result<(), TransportError> {
        Err(TransportError::Disconnected)
    }
}

/// A payload that says whether it is in the session's buffer.
struct Noted<'p> {
    payload: &'p [u8],
    taken: &'p Cell<bool>,
}

impl ToPayload for Noted<'_> {
    type Error = ();

    fn serialize(self, buffer: &mut [u8]) -> Result<usize, ()> {
        let length = self.payload.serialize(buffer)?;
        self.taken.set(true);
        Ok(length)
    }
}

impl<C: Io> Transport for Wire<'_, '_, '_, C> {
    /// A message of at-least-once delivery is in the session's buffer before a byte of it is sent. What the
    /// network does not take at once goes on its way while the connection is awaited.
    fn publish(&mut self, topic: &str, payload: &[u8], retain: bool) -> Result<(), TransportError> {
        let taken = Cell::new(false);
        let noted = Noted {
            payload,
            taken: &taken,
        };
        let mut publication = Publication::new(topic, noted).qos(QoS::AtLeastOnce);
        if retain {
            publication = publication.retain();
        }
        let now = {
            let published = pin!(self.connection.publish(publication));
            published.poll(&mut Context::from_waker(self.waker))
        };
        match now {
            Poll::Ready(Ok(_)) => Ok(()),
            // Also one that the broker allows no room for, while the network takes nothing: a frame is said again
            // when no acknowledgement of it comes.
            Poll::Pending if taken.get() => Ok(()),
            Poll::Ready(Err(PubError::Session(Error::Resource(ResourceError::PacketTooLarge)))) => {
                say!(
                    warn,
                    "the broker takes no message of {} bytes: raise its maximum packet size",
                    payload.len()
                );
                Err(TransportError::Invalid)
            }
            _ if self.connection.is_connected() => Err(TransportError::Full),
            _ => Err(TransportError::Disconnected),
        }
    }
}

/// Asks for a subscription, or for its end where it is not wanted; false where there is no room for that now.
pub(crate) async fn subscribe<C: Io>(
    connection: &mut Connection<'_, '_, C>,
    topic: &str,
    wanted: bool,
) -> Result<bool, Lost> {
    let asked = if wanted {
        let filter = TopicFilter::new(topic)
            .options(minimq::SubscriptionOptions::default().maximum_qos(QoS::AtLeastOnce));
        connection.subscribe(&[filter], &[]).await
    } else {
        connection.unsubscribe(&[topic], &[]).await
    };
    match asked {
        Ok(_) => Ok(true),
        Err(Error::Resource(ResourceError::PacketTooLarge)) => {
            say!(
                warn,
                "the broker takes no request as long as for {=str}",
                topic
            );
            Ok(true)
        }
        Err(Error::NotReady | Error::Resource(_)) => Ok(false),
        Err(_) => Err(Lost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use core::convert::Infallible;
    use embassy_futures::{block_on, poll_once};
    use embedded_io_async::{ErrorType, Read, Write};
    use minimq::{Buffers, ConfigBuilder, Session};
    use std::cell::RefCell;
    use std::rc::Rc;

    /// A broker that takes the connection and says nothing more; what it takes is kept.
    #[derive(Default)]
    struct Broker {
        /// How much it takes from now on.
        takes: usize,
        /// How much of its answer it said.
        said: usize,
        heard: Vec<u8>,
    }

    struct Stream(Rc<RefCell<Broker>>);

    impl ErrorType for Stream {
        type Error = Infallible;
    }

    impl Read for Stream {
        async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Infallible> {
            /// CONNACK of MQTT 5: no session, accepted, no properties.
            const ACCEPTED: [u8; 5] = [0x20, 3, 0, 0, 0];
            let said = self.0.borrow().said;
            if said == ACCEPTED.len() {
                core::future::pending::<()>().await;
            }
            let length = bytes.len().min(ACCEPTED.len() - said);
            bytes[..length].copy_from_slice(&ACCEPTED[said..said + length]);
            self.0.borrow_mut().said += length;
            Ok(length)
        }
    }

    impl Write for Stream {
        async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
            let takes = self.0.borrow().takes.min(bytes.len());
            if takes == 0 {
                core::future::pending::<()>().await;
            }
            let mut broker = self.0.borrow_mut();
            broker.takes -= takes;
            broker.heard.extend_from_slice(&bytes[..takes]);
            Ok(takes)
        }

        async fn flush(&mut self) -> Result<(), Infallible> {
            Ok(())
        }
    }

    /// How often the broker heard this.
    fn times(broker: &RefCell<Broker>, payload: &[u8]) -> usize {
        let broker = broker.borrow();
        broker
            .heard
            .windows(payload.len())
            .filter(|it| *it == payload)
            .count()
    }

    #[test]
    fn what_the_network_takes_late_is_taken_and_what_has_no_room_is_refused() {
        let broker = Rc::new(RefCell::new(Broker {
            takes: usize::MAX,
            ..Broker::default()
        }));
        let (mut receive, mut send) = ([0; 256], [0; 512]);
        let config = ConfigBuilder::new(Buffers::new(&mut receive, &mut send));
        let mut session = Session::new(config.client_id("press").unwrap());
        let mut connection = block_on(session.connect(Stream(broker.clone())))
            .ok()
            .unwrap();
        broker.borrow_mut().takes = 3;
        let mut taken = 0;
        let refused = loop {
            let payload = std::format!("message-{taken:03}-{}", "x".repeat(64));
            let mut wire = Wire {
                connection: &mut connection,
                waker: Waker::noop(),
            };
            match wire.publish("a/topic", payload.as_bytes(), false) {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(refused, TransportError::Full);
        assert!((2..8).contains(&taken), "{taken}");
        assert_eq!(
            times(&broker, b"message-"),
            0,
            "the network took none of it"
        );
        broker.borrow_mut().takes = usize::MAX;
        while poll_once(connection.poll()).is_ready() {}
        for number in 0..taken {
            let payload = std::format!("message-{number:03}-");
            assert_eq!(times(&broker, payload.as_bytes()), 1, "{number}");
        }
        assert_eq!(
            times(&broker, b"message-"),
            taken,
            "what was refused was not sent"
        );
        connection.handle_disconnect();
        let mut wire = Wire {
            connection: &mut connection,
            waker: Waker::noop(),
        };
        let refused = wire.publish("a/topic", b"late", false);
        assert_eq!(refused, Err(TransportError::Disconnected));
        let refused = Offline.publish("a/topic", b"late", false);
        assert_eq!(refused, Err(TransportError::Disconnected));
    }

    #[test]
    fn what_is_larger_than_the_broker_takes_is_refused_and_what_fits_goes_on() {
        // CONNACK of MQTT 5: no session, accepted, packets of at most 64 bytes.
        let accepted = Answer(&[0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 64]);
        let (mut receive, mut send) = ([0; 256], [0; 512]);
        let config = ConfigBuilder::new(Buffers::new(&mut receive, &mut send));
        let mut session = Session::new(config.client_id("press").unwrap());
        let mut connection = block_on(session.connect(accepted)).ok().unwrap();
        let mut wire = Wire {
            connection: &mut connection,
            waker: Waker::noop(),
        };
        for (length, taken) in [(40, true), (100, false), (40, true)] {
            let published = wire.publish("a/topic", &[b'x'; 100][..length], false);
            let expected = match taken {
                true => Ok(()),
                false => Err(TransportError::Invalid),
            };
            assert_eq!(published, expected, "{length}");
        }
        // A request with a topic of a blob is too long; those behind it are not held up.
        let long = edgeward::topic::blob(&[1; 32], 0);
        for topic in [long.as_str(), "a/topic"] {
            let asked = block_on(subscribe(&mut connection, topic, true));
            assert_eq!(asked, Ok(true), "{topic} holds up nothing");
        }
    }

    /// A broker that answers this, whatever it hears, and closes the connection.
    struct Answer(&'static [u8]);

    impl ErrorType for Answer {
        type Error = Infallible;
    }

    impl Read for Answer {
        async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Infallible> {
            let (said, rest) = self.0.split_at(bytes.len().min(self.0.len()));
            bytes[..said.len()].copy_from_slice(said);
            self.0 = rest;
            Ok(said.len())
        }
    }

    impl Write for Answer {
        async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
            Ok(bytes.len())
        }

        async fn flush(&mut self) -> Result<(), Infallible> {
            Ok(())
        }
    }

    #[test]
    fn why_a_broker_refuses_is_told_apart() {
        let answers: [(&[u8], Refused); 8] = [
            (&[0x20, 3, 0, 0x86, 0], Refused::Who),
            (&[0x20, 3, 0, 0x87, 0], Refused::Who),
            // Server unavailable; banned, which minimq has no name for.
            (&[0x20, 3, 0, 0x88, 0], Refused::Reason(0x88)),
            (&[0x20, 3, 0, 0x8A, 0], Refused::Reason(0xFF)),
            (&[], Refused::Closed),
            (&[0x20, 3, 0], Refused::Closed),
            // What is no MQTT, and ends before the packet that its first bytes would begin.
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", Refused::Closed),
            // CONNACK of MQTT 3.1.1.
            (&[0x20, 2, 0, 1], Refused::NotMqtt),
        ];
        for (answer, refused) in answers {
            let (mut receive, mut send) = ([0; 256], [0; 512]);
            let config = ConfigBuilder::new(Buffers::new(&mut receive, &mut send));
            let mut session = Session::new(config.client_id("press").unwrap());
            let shaken = block_on(session.connect(Answer(answer)));
            let error = shaken.err().unwrap();
            assert_eq!(Refused::of(&error), refused, "{answer:x?}");
        }
    }
}
