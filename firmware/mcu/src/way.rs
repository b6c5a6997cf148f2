//! How a broker is spoken to over a stream: in plain, or in TLS.

use crate::app::App;
use crate::board::{Entropy, Flash};
use embedded_io_async::{Read, Write};
use minimq::Session;

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Talk {
    /// It was there long enough that the next try needs no delay that grew.
    Lasted,
    /// It never was, or ended soon.
    Broken,
}

/// How a broker is spoken to.
pub(crate) trait Way {
    /// Speaks to the broker at the other end of a stream until it ends.
    async fn talk<S: Flash, const F: usize, const C: usize, const B: usize>(
        &mut self,
        stream: impl Read + Write,
        app: &mut App<S, F, C, B>,
        session: &mut Session<'static>,
        entropy: &mut impl Entropy,
    ) -> Talk;
}

/// In plain.
pub(crate) struct Plain;

impl Way for Plain {
    async fn talk<S: Flash, const F: usize, const C: usize, const B: usize>(
        &mut self,
        stream: impl Read + Write,
        app: &mut App<S, F, C, B>,
        session: &mut Session<'static>,
        _: &mut impl Entropy,
    ) -> Talk {
        app.talk(stream, session).await
    }
}

#[cfg(feature = "tls")]
pub(crate) use secure::Secure;

#[cfg(feature = "tls")]
mod secure {
    use super::{App, Entropy, Flash, Read, Session, Talk, Way, Write};
    use crate::apart::Apart;
    use crate::app::HANDSHAKE;
    use core::pin::pin;
    use edgeward_firmware::provisioning::{self, Provisioning};
    use edgeward_tls::{Connection, Memory, TlsError, Trust};
    use embassy_time::{Instant, with_timeout};
    use embedded_io_async::ErrorType;

    const _: () = assert!(provisioning::AUTHORITIES <= edgeward_tls::AUTHORITIES);

    /// In TLS where the board was provisioned for it, otherwise in plain.
    pub(crate) struct Secure {
        trust: Option<(Trust<'static>, u64)>,
        memory: &'static mut Memory,
    }

    impl Secure {
        /// The way to the broker that the host named.
        ///
        /// # Errors
        /// [`TlsError`] where nobody could be trusted so.
        pub fn new(
            who: &'static Provisioning<'static>,
            memory: &'static mut Memory,
        ) -> Result<Self, TlsError> {
            let trust = match &who.secure {
                Some(it) => {
                    let trust = Trust::new(it.name, it.authorities.iter().copied())?;
                    Some((trust, it.since_s))
                }
                None => None,
            };
            Ok(Self { trust, memory })
        }
    }

    impl Way for Secure {
        async fn talk<S: Flash, const F: usize, const C: usize, const B: usize>(
            &mut self,
            mut stream: impl Read + Write,
            app: &mut App<S, F, C, B>,
            session: &mut Session<'static>,
            entropy: &mut impl Entropy,
        ) -> Talk {
            let Some((trust, since_s)) = &self.trust else {
                return app.talk(Stream::Plain(&mut stream), session).await;
            };
            let since_s = since_s.saturating_add(Instant::now().as_secs());
            let random = |bytes: &mut [u8]| entropy.fill(bytes);
            let mut opened = {
                let opened = Connection::open(stream, self.memory, trust, since_s, random);
                let opened = Apart(pin!(opened));
                let opened = with_timeout(HANDSHAKE, opened);
                app.offline(opened).await
            };
            let refused = match &mut opened {
                Ok(Ok(stream)) => return app.talk(Stream::Secure(stream), session).await,
                Ok(Err(error)) => Some(*error),
                Err(_) => None,
            };
            // It may have been refused in time, and not have heard it: that is waited for.
            match refused.or(self.memory.refused()) {
                Some(error) => say!(warn, "no connection: {}", error),
                None => say!(warn, "no connection: no answer in time"),
            }
            Talk::Broken
        }
    }

    /// One type for both, so that what speaks MQTT is in the image once. Borrowed: what an async function is given
    /// and hands on stays with both.
    enum Stream<'s, 'a, C> {
        Plain(&'s mut C),
        Secure(&'s mut Connection<'a, C>),
    }

    impl<C> ErrorType for Stream<'_, '_, C> {
        type Error = TlsError;
    }

    impl<C: Read + Write> Read for Stream<'_, '_, C> {
        async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, TlsError> {
            match self {
                Self::Plain(stream) => stream.read(bytes).await.map_err(|_| TlsError::Ended),
                Self::Secure(stream) => {
                    let read = stream.read(bytes).await;
                    // What the broker thinks of a board without a certificate is said here, behind the
                    // handshake; that it closed the connection is said by who notices.
                    if let Err(error) = &read
                        && *error != TlsError::Ended
                    {
                        say!(warn, "the connection ends: {}", error);
                    }
                    read
                }
            }
        }
    }

    impl<C: Read + Write> Write for Stream<'_, '_, C> {
        async fn write(&mut self, bytes: &[u8]) -> Result<usize, TlsError> {
            match self {
                Self::Plain(stream) => stream.write(bytes).await.map_err(|_| TlsError::Ended),
                Self::Secure(stream) => stream.write(bytes).await,
            }
        }

        async fn flush(&mut self) -> Result<(), TlsError> {
            match self {
                Self::Plain(stream) => stream.flush().await.map_err(|_| TlsError::Ended),
                Self::Secure(stream) => stream.flush().await,
            }
        }
    }
}
