//! The line to the broker: one connection, and what is to be subscribed on it.

use core::cell::Cell;
use core::future::Future as _;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use edgeward::topic::Topic;
use edgeward_firmware::transport::{Transport, TransportError};
use heapless::{Deque, Vec};
use minimq::{
    Connection, Error, Io, PeerError, PubError, Publication, QoS, ResourceError, Session,
    ToPayload, TopicFilter,
};

/// Subscriptions at once: desired state, acknowledgements, commands, the next root, and the chunks on
/// their way.
const WANTED: usize = 4 + crate::CHUNKS;
/// Requests that may wait for room on the line.
const WAITING: usize = 12;

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

/// What the connection is to be subscribed to: requests go out in the order in which they were made.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    wanted: Vec<Topic, WANTED>,
    /// To subscribe to, or not any more.
    waiting: Deque<(Topic, bool), WAITING>,
}

/// What MQTT knows of the board's side: it outlives connections.
pub(crate) struct Mqtt {
    pub session: &'static mut Session<'static>,
    pub subscriptions: Subscriptions,
}

/// Where the head's requests go while there is a connection.
pub(crate) struct Wire<'w, 'c, 'b, C: Io> {
    pub connection: &'w mut Connection<'c, 'b, C>,
    pub subscriptions: &'w mut Subscriptions,
    /// The task's own: timers take no other.
    pub waker: &'w Waker,
}

impl Subscriptions {
    pub fn want(&mut self, topic: Topic) {
        if !self.wanted.contains(&topic) {
            // One too many would be a chunk beyond the window, which there is none of.
            let _ = self.wanted.push(topic.clone());
        }
        self.ask(topic, true);
    }

    pub fn forget(&mut self, topic: Topic) {
        self.wanted.retain(|known| *known != topic);
        self.ask(topic, false);
    }

    fn ask(&mut self, topic: Topic, wanted: bool) {
        if self.waiting.is_full() {
            // What is asked for last counts: all that is wanted is asked for again.
            self.restart();
            return;
        }
        let _ = self.waiting.push_back((topic, wanted));
    }

    /// How many requests wait to go out.
    pub fn requests(&self) -> usize {
        self.waiting.len()
    }

    /// The connection is new and knows of nothing.
    pub fn restart(&mut self) {
        self.waiting.clear();
        for topic in &self.wanted {
            let _ = self.waiting.push_back((topic.clone(), true));
        }
    }
}

/// Where requests go while there is no connection: subscriptions are kept, messages refused.
impl Transport for Subscriptions {
    fn publish(&mut self, _: &str, _: &[u8], _: bool) -> Result<(), TransportError> {
        Err(TransportError::Disconnected)
    }

    fn subscribe(&mut self, filter: &str) -> Result<(), TransportError> {
        self.want(topic(filter)?);
        Ok(())
    }

    fn unsubscribe(&mut self, filter: &str) -> Result<(), TransportError> {
        self.forget(topic(filter)?);
        Ok(())
    }
}

fn topic(filter: &str) -> Result<Topic, TransportError> {
    Topic::try_from(filter).map_err(|_| TransportError::Invalid)
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

    fn subscribe(&mut self, filter: &str) -> Result<(), TransportError> {
        self.subscriptions.subscribe(filter)
    }

    fn unsubscribe(&mut self, filter: &str) -> Result<(), TransportError> {
        self.subscriptions.unsubscribe(filter)
    }
}

/// Asks for what waits to be asked for, as long as there is room.
pub(crate) async fn subscribe<C: Io>(
    connection: &mut Connection<'_, '_, C>,
    subscriptions: &mut Subscriptions,
) -> Result<(), Lost> {
    while let Some((topic, wanted)) = subscriptions.waiting.front() {
        let asked = if *wanted {
            let filter = TopicFilter::new(topic)
                .options(minimq::SubscriptionOptions::default().maximum_qos(QoS::AtLeastOnce));
            connection.subscribe(&[filter], &[]).await
        } else {
            connection.unsubscribe(&[topic], &[]).await
        };
        match asked {
            Ok(_) => subscriptions.waiting.pop_front(),
            Err(Error::Resource(ResourceError::PacketTooLarge)) => {
                say!(
                    warn,
                    "the broker takes no request as long as for {=str}",
                    topic.as_str()
                );
                subscriptions.waiting.pop_front()
            }
            Err(Error::NotReady | Error::Resource(_)) => break,
            Err(_) => return Err(Lost),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use core::convert::Infallible;
    use embassy_futures::{block_on, poll_once};
    use embedded_io_async::{ErrorType, Read, Write};
    use minimq::{Buffers, ConfigBuilder};
    use std::cell::RefCell;
    use std::rc::Rc;

    fn topic(n: usize) -> Topic {
        edgeward::topic::blob(&[n as u8; 32], 0)
    }

    /// A broker that takes the connection and says nothing more; what it takes is kept.
    #[derive(Default)]
    struct Broker {
        /// How much it takes from now on.
        takes: usize,
        /// How much of its answer it said.
        said: usize,
        heard: std::vec::Vec<u8>,
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
        let mut subscriptions = Subscriptions::default();
        broker.borrow_mut().takes = 3;
        let mut taken = 0;
        let refused = loop {
            let payload = std::format!("message-{taken:03}-{}", "x".repeat(64));
            let mut wire = Wire {
                connection: &mut connection,
                subscriptions: &mut subscriptions,
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
            subscriptions: &mut subscriptions,
            waker: Waker::noop(),
        };
        let refused = wire.publish("a/topic", b"late", false);
        assert_eq!(refused, Err(TransportError::Disconnected));
        let refused = subscriptions.publish("a/topic", b"late", false);
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
            subscriptions: &mut Subscriptions::default(),
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
        let mut subscriptions = Subscriptions::default();
        subscriptions.want(topic(1));
        subscriptions.want(Topic::try_from("a/topic").unwrap());
        let asked = block_on(subscribe(&mut connection, &mut subscriptions));
        assert_eq!((asked, subscriptions.requests()), (Ok(()), 0));
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

    fn waiting(subscriptions: &Subscriptions) -> std::vec::Vec<(Topic, bool)> {
        subscriptions.waiting.iter().cloned().collect()
    }

    #[test]
    fn requests_keep_their_order_and_a_new_connection_asks_for_all() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.want(topic(1));
        subscriptions.forget(topic(1));
        subscriptions.want(topic(1));
        let asked = [(topic(1), true), (topic(1), false), (topic(1), true)];
        assert_eq!(waiting(&subscriptions), asked);
        subscriptions.want(topic(2));
        subscriptions.forget(topic(1));
        subscriptions.restart();
        assert_eq!(waiting(&subscriptions), [(topic(2), true)]);
    }

    #[test]
    fn a_full_queue_forgets_no_subscription() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.want(topic(1));
        for _ in 0..2 * WAITING {
            subscriptions.want(topic(2));
            subscriptions.forget(topic(2));
        }
        subscriptions.want(topic(3));
        let asked = waiting(&subscriptions);
        for wanted in [topic(1), topic(3)] {
            assert!(asked.contains(&(wanted, true)), "{asked:?}");
        }
    }
}
