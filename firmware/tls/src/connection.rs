//! A connection that stands.

use crate::flight::{Flight, Keys};
use crate::keys::Traffic;
use crate::record::{self, alert, kind};
use crate::{Memory, Refusal, TlsError, Trust, told};
use core::ops::Range;
use embedded_io_async::{ErrorType, Read, Write};

/// Most bytes of a record that is sent.
const PART: usize = 1024;
/// Records after which the keys are new: well below what AES-GCM stands (RFC 8446, 5.5).
const KEY_RECORDS: u64 = 1 << 22;

/// Messages that come behind a handshake.
mod message {
    pub const TICKET: u8 = 4;
    pub const KEY_UPDATE: u8 = 24;
}
/// New keys for what is sent from here on, and no wish that the peer does the same.
const KEY_UPDATE: [u8; 5] = [message::KEY_UPDATE, 0, 0, 1, 0];

/// A stream over which a server that was checked is spoken to in secret.
///
/// What was written is sent as soon as [`Write::flush`] is called. Dropping a future of reading, writing or
/// flushing loses nothing, as long as dropping those of the stream below loses nothing.
pub struct Connection<'a, S> {
    stream: S,
    input: &'a mut [u8],
    output: &'a mut [u8],
    reading: Traffic,
    writing: Traffic,
    /// Bytes of the next record that have come.
    received: usize,
    /// What lies in `input` and was not read yet.
    plain: Range<usize>,
    /// What lies in `output` and was not sent yet.
    unsent: Range<usize>,
    /// Whether the peer is to be told of new keys before anything else is sent.
    owed: bool,
    behind: Behind,
    /// How the peer's side ended.
    over: Option<Result<(), TlsError>>,
    /// What the peer is to be told of that.
    alert: Option<u8>,
}

impl<'a, S: Read + Write> Connection<'a, S> {
    /// Shakes hands with the server at the other end of `stream`. It is `since_s` now, in seconds since
    /// 1970, or later; `random` fills bytes with what nobody can guess.
    ///
    /// # Errors
    /// [`TlsError`] says why the server is not to be talked to. Nothing but the handshake was sent then.
    pub async fn open(
        mut stream: S,
        memory: &'a mut Memory,
        trust: &Trust<'_>,
        since_s: u64,
        random: impl FnMut(&mut [u8]),
    ) -> Result<Self, TlsError> {
        let Memory {
            input,
            output,
            refused,
        } = memory;
        refused.0 = false;
        let mut flight = Flight::new(&mut stream, input, output);
        let Keys { reading, writing } = flight.run(trust, since_s, random, refused).await?;
        Ok(Self {
            stream,
            input,
            output,
            reading,
            writing,
            received: 0,
            plain: 0..0,
            unsent: 0..0,
            owed: false,
            behind: Behind::default(),
            over: None,
            alert: None,
        })
    }

    #[cfg(test)]
    pub(crate) fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Receives a record and opens it.
    async fn receive(&mut self) -> Result<(), Refusal> {
        let received = record::receive(&mut self.stream, self.input, &mut self.received);
        let len = received.await?;
        self.received = 0;
        let record = self.input.get_mut(..len).ok_or(TlsError::TooLarge)?;
        let (kind, content) = record::open(&mut self.reading, record)?;
        let bytes = record.get(content.clone()).ok_or(TlsError::Malformed)?;
        match kind {
            kind::DATA => self.plain = content,
            kind::ALERT => match record::read_alert(bytes)? {
                None => {}
                Some(alert::CLOSE) => self.over = Some(Ok(())),
                Some(number) => return Err(TlsError::Alert(number).into()),
            },
            kind::HANDSHAKE if !bytes.is_empty() => {
                if let Some(asked) = self.behind.read(bytes)? {
                    self.reading.update();
                    self.owed |= asked;
                }
            }
            _ => return Err(TlsError::Unexpected.into()),
        }
        Ok(())
    }

    /// Tells the peer why the connection ends, behind what was written before: a kindness, once.
    async fn tell(&mut self) -> Result<(), TlsError> {
        self.drain().await?;
        if let Some(number) = self.alert.take() {
            self.seal(kind::ALERT, &[2, number])?;
            self.drain().await?;
        }
        self.stream.flush().await.map_err(|_| TlsError::Ended)
    }

    /// Sends what was not sent yet.
    async fn drain(&mut self) -> Result<(), TlsError> {
        while !self.unsent.is_empty() {
            let bytes = self.output.get(self.unsent.clone());
            let bytes = bytes.ok_or(TlsError::TooLarge)?;
            match self.stream.write(bytes).await {
                Ok(sent @ 1..) => self.unsent.start += sent,
                _ => return Err(TlsError::Ended),
            }
        }
        Ok(())
    }

    /// Makes the next record to be sent, once there is none before it.
    fn seal(&mut self, kind: u8, content: &[u8]) -> Result<(), TlsError> {
        let len = record::seal(&mut self.writing, kind, content, self.output)?;
        self.unsent = 0..len;
        Ok(())
    }
}

impl<S> core::fmt::Debug for Connection<'_, S> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl<S> ErrorType for Connection<'_, S> {
    type Error = TlsError;
}

impl<S: Read + Write> Read for Connection<'_, S> {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TlsError> {
        loop {
            let plain = self.input.get(self.plain.clone()).unwrap_or_default();
            if buffer.is_empty() || !plain.is_empty() {
                let len = plain.len().min(buffer.len());
                for (to, from) in buffer.iter_mut().zip(plain) {
                    *to = *from;
                }
                self.plain.start += len;
                return Ok(len);
            }
            if let Some(over) = self.over {
                if over.is_err_and(|error| error != TlsError::Ended) {
                    let _ = self.tell().await;
                }
                return over.map(|()| 0);
            }
            if let Err(refusal) = self.receive().await {
                self.over = Some(Err(refusal.error));
                self.alert = refusal.alert;
            }
        }
    }
}

impl<S: Read + Write> Write for Connection<'_, S> {
    async fn write(&mut self, buffer: &[u8]) -> Result<usize, TlsError> {
        if let Some(Err(error)) = self.over {
            return Err(error);
        }
        self.drain().await?;
        if self.owed || self.writing.records() >= KEY_RECORDS {
            self.seal(kind::HANDSHAKE, &KEY_UPDATE)?;
            self.writing.update();
            self.owed = false;
            self.drain().await?;
        }
        // Nothing is waited for from here on: what is told to be taken is taken.
        let part = buffer.get(..PART).unwrap_or(buffer);
        if !part.is_empty() {
            self.seal(kind::DATA, part)?;
        }
        Ok(part.len())
    }

    async fn flush(&mut self) -> Result<(), TlsError> {
        self.drain().await?;
        self.stream.flush().await.map_err(|_| TlsError::Ended)
    }
}

/// Reads the messages that come behind a handshake, in parts as they come.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    header: [u8; 4],
    /// Bytes of the header that have come.
    have: usize,
    /// Bytes of the message that are to come.
    left: usize,
}

impl Behind {
    /// Reads on. Gives whether the peer asks for new keys, should it have new ones itself.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<bool>, Refusal> {
        let mut update = None;
        for &byte in bytes {
            if update.is_some() {
                // Behind it comes nothing under the old keys.
                return Err(TlsError::Unexpected.into());
            }
            if let Some(of_header) = self.header.get_mut(self.have) {
                *of_header = byte;
                self.have += 1;
                if self.have == self.header.len() {
                    let [kind, high, middle, low] = self.header;
                    self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
                    match (kind, self.left) {
                        (message::TICKET, 1..) | (message::KEY_UPDATE, 1) => {}
                        _ => return Err(TlsError::Unexpected.into()),
                    }
                }
                continue;
            }
            if self.header.first() == Some(&message::KEY_UPDATE) {
                update = Some(byte == 1);
                if byte > 1 {
                    return Err(TlsError::Malformed.told(told::ILLEGAL_PARAMETER));
                }
            }
            self.left -= 1;
            if self.left == 0 {
                self.have = 0;
            }
        }
        Ok(update)
    }
}
