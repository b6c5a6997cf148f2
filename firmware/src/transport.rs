//! What the application needs of a message transport; MQTT on every board so far.
//!
//! A transport promises little: messages are bounded, nothing blocks, and a message that was taken
//! may still be lost. The outbox above it keeps each frame until the host's signed acknowledgement,
//! and the update client asks again for what did not come, so that no correctness hangs on a
//! broker's promises.
//!
//! Every board has a [`Transport`], to which [`hand_over`] gives what the head asks of it: the agent's
//! over rumqttc, and a microcontroller's over minimq. How events come back depends on who waits: the
//! agent polls a [`Connector`], which connects by itself; a microcontroller's application awaits its
//! connection.

use crate::control::Action;

/// Most bytes of a message's payload. The largest is a chunk of a bundle or a frame, both far
/// below; a broker that sends more is cut off.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024 - 512;
/// Longest topic in bytes.
pub const TOPIC_BYTES_MAX: usize = 192;

/// Something that happened on the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The broker took the connection.
    Connected {
        /// Whether it still has the subscriptions of the connection before. When it has not, the
        /// transport subscribes anew to all that was asked for.
        session_present: bool,
    },
    /// The connection is gone; the transport connects again by itself.
    Disconnected,
    /// A message came.
    Message {
        /// Its topic.
        topic: &'a str,
        /// Its payload, at most [`PAYLOAD_BYTES_MAX`].
        payload: &'a [u8],
    },
}

/// Why a request was not taken. Nothing was sent; try again after the next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportError {
    /// The queue is full.
    Full,
    /// There is no connection now.
    Disconnected,
    /// The topic is empty, too long or has a wildcard where none may be, or the payload is larger
    /// than [`PAYLOAD_BYTES_MAX`] or than the broker takes.
    Invalid,
}

/// Where the application's requests go.
pub trait Transport {
    /// Takes a message for at-least-once delivery. Does not block.
    ///
    /// # Errors
    /// [`TransportError`]; the message was not taken.
    fn publish(&mut self, topic: &str, payload: &[u8], retain: bool) -> Result<(), TransportError>;
}

/// A transport that connects, and repairs its connection, by itself.
pub trait Connector: Transport {
    /// Begins to connect, and keeps on until [`Connector::disconnect`]. Does not block.
    fn connect(&mut self);

    /// Subscribes to a topic filter, now and after every reconnection that needs it, until
    /// [`Connector::unsubscribe`]. Subscribing again asks the broker for the retained message again.
    ///
    /// # Errors
    /// [`TransportError::Full`] when there are too many subscriptions, [`TransportError::Invalid`].
    fn subscribe(&mut self, filter: &str) -> Result<(), TransportError>;

    /// Ends a subscription. One that does not exist is no error.
    ///
    /// # Errors
    /// [`TransportError`] when the broker can't be told now; the filter is forgotten all the same.
    fn unsubscribe(&mut self, filter: &str) -> Result<(), TransportError>;

    /// Hands the next event to `handle`, if there is one, and says whether there was. Does not
    /// block.
    fn poll(&mut self, handle: &mut dyn FnMut(Event<'_>)) -> bool;

    /// Whether a connection is up and its broker kept the session of the one before.
    fn session_present(&self) -> bool;

    /// Sends what is queued, says goodbye and ends the connection, within a bounded time.
    fn disconnect(&mut self);
}

/// Gives the transport what an action asks of it, and the action back where it is the board's own:
/// what is to be loaded, run, stopped or pulled.
///
/// # Errors
/// [`TransportError`] when a message was not taken: tell the head, by
/// [`Control::not_taken`](crate::control::Control::not_taken).
pub fn hand_over<'b>(
    action: Action<'b>,
    transport: &mut dyn Transport,
) -> Result<Option<Action<'b>>, TransportError> {
    match action {
        Action::Publish {
            topic,
            payload,
            retain,
        } => transport.publish(&topic, payload, retain)?,
        Action::More => {}
        own => return Ok(Some(own)),
    }
    Ok(None)
}
