//! A stream that is not waited for for ever.

use embassy_time::{Duration, Instant, with_deadline};
use embedded_io_async::{Error, ErrorKind, ErrorType, Read, Write};

/// How long the other side may take nothing of what is to be sent.
const SENDING: Duration = Duration::from_secs(20);

/// A stream whose other side has to take what is sent. The time runs on while whoever writes breaks off
/// and begins again, as everything does that waits for several things at once.
#[derive(Debug)]
pub(crate) struct Patience<S> {
    stream: S,
    /// How long that may take.
    sending: Duration,
    /// Since when something is to be sent.
    since: Option<Instant>,
}

impl<S> Patience<S> {
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            sending: SENDING,
            since: None,
        }
    }
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended<E> {
    /// The other side took nothing for too long.
    Stalled,
    /// As it says itself.
    Stream(E),
}

impl<E: core::fmt::Debug> core::fmt::Display for Ended<E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Stalled => "the other side takes nothing",
            Self::Stream(_) => "the stream ended",
        })
    }
}

impl<E: core::fmt::Debug> core::error::Error for Ended<E> {}

impl<E: Error> Error for Ended<E> {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Stalled => ErrorKind::TimedOut,
            Self::Stream(error) => error.kind(),
        }
    }
}

impl<S: ErrorType> ErrorType for Patience<S> {
    type Error = Ended<S::Error>;
}

impl<S: Read> Read for Patience<S> {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Self::Error> {
        self.stream.read(bytes).await.map_err(Ended::Stream)
    }
}

impl<S: Write> Write for Patience<S> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        let until = *self.since.get_or_insert_with(Instant::now) + self.sending;
        let written = with_deadline(until, self.stream.write(bytes)).await;
        let written = written.map_err(|_| Ended::Stalled)?;
        self.since = None;
        written.map_err(Ended::Stream)
    }

    async fn flush(&mut self) -> Result<(), Self::Error> {
        let until = *self.since.get_or_insert_with(Instant::now) + self.sending;
        let flushed = with_deadline(until, self.stream.flush()).await;
        let flushed = flushed.map_err(|_| Ended::Stalled)?;
        self.since = None;
        flushed.map_err(Ended::Stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use embassy_futures::block_on;
    use embassy_futures::poll_once;

    /// Takes nothing, or everything.
    struct Peer {
        takes: bool,
    }

    impl ErrorType for Peer {
        type Error = core::convert::Infallible;
    }

    impl Write for Peer {
        async fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
            if !self.takes {
                core::future::pending::<()>().await;
            }
            Ok(bytes.len())
        }

        async fn flush(&mut self) -> Result<(), Self::Error> {
            Ok(())
        }
    }

    #[test]
    fn the_time_runs_on_over_writes_that_are_broken_off() {
        let mut stream = Patience::new(Peer { takes: false });
        assert!(poll_once(stream.write(b"a")).is_pending());
        let since = stream.since;
        assert!(since.is_some());
        assert!(poll_once(stream.write(b"a")).is_pending());
        assert_eq!(stream.since, since);
        stream.sending = Duration::from_ticks(0);
        assert_eq!(block_on(stream.write(b"a")), Err(Ended::Stalled));
        assert_eq!(block_on(stream.write(b"a")), Err(Ended::Stalled));
    }

    #[test]
    fn who_takes_something_has_all_the_time_again() {
        let mut stream = Patience::new(Peer { takes: false });
        assert!(poll_once(stream.write(b"a")).is_pending());
        stream.stream.takes = true;
        assert_eq!(block_on(stream.write(b"a")), Ok(1));
        assert_eq!(stream.since, None);
        assert_eq!(block_on(stream.flush()), Ok(()));
        assert_eq!(stream.since, None);
    }
}
