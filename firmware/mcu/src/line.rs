//! The line to the broker: one connection, and what is to be subscribed on it.

use edgeward::topic::Topic;
use heapless::{Deque, Vec};
use minimq::{Connection, Error, Io, PeerError, PubError, Publication, QoS, TopicFilter};

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
    /// Another reason, by its number in MQTT.
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

/// What became of something that was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is on its way.
    Taken,
    /// There is no room now.
    Later,
}

/// What the connection is to be subscribed to: requests go out in the order in which they were made.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    wanted: Vec<Topic, WANTED>,
    /// To subscribe to, or not any more.
    waiting: Deque<(Topic, bool), WAITING>,
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

    /// The connection is new and knows of nothing.
    pub fn restart(&mut self) {
        self.waiting.clear();
        for topic in &self.wanted {
            let _ = self.waiting.push_back((topic.clone(), true));
        }
    }
}

/// What a request came to.
fn taken<T, E>(result: Result<T, Error<E>>) -> Result<Sent, Lost> {
    match result {
        Ok(_) => Ok(Sent::Taken),
        Err(Error::NotReady | Error::Resource(_)) => Ok(Sent::Later),
        Err(_) => Err(Lost),
    }
}

/// Asks for what waits to be asked for, as long as there is room.
pub(crate) async fn subscribe<C: Io>(
    connection: &mut Connection<'_, '_, C>,
    subscriptions: &mut Subscriptions,
) -> Result<(), Lost> {
    while let Some((topic, wanted)) = subscriptions.waiting.front() {
        let sent = if *wanted {
            let filter = TopicFilter::new(topic)
                .options(minimq::SubscriptionOptions::default().maximum_qos(QoS::AtLeastOnce));
            taken(connection.subscribe(&[filter], &[]).await)?
        } else {
            taken(connection.unsubscribe(&[topic], &[]).await)?
        };
        if sent == Sent::Later {
            break;
        }
        subscriptions.waiting.pop_front();
    }
    Ok(())
}

/// Publishes for at-least-once delivery.
pub(crate) async fn publish<C: Io>(
    connection: &mut Connection<'_, '_, C>,
    topic: &str,
    payload: &[u8],
    retain: bool,
) -> Result<Sent, Lost> {
    let mut publication = Publication::bytes(topic, payload).qos(QoS::AtLeastOnce);
    if retain {
        publication = publication.retain();
    }
    match connection.publish(publication).await {
        Ok(_) => Ok(Sent::Taken),
        Err(PubError::Session(error)) => taken::<(), _>(Err(error)),
        Err(PubError::Payload(_)) => Ok(Sent::Later),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(n: usize) -> Topic {
        edgeward::topic::blob(&[n as u8; 32], 0)
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
