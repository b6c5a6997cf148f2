//! The memory of the application, and where it lies.

use crate::app::App;
use crate::board::Flash;
use crate::store::StoreFlash;
use crate::{HEAD_CHUNKS, RECORDS};
use core::mem::MaybeUninit;
use edgeward::bundle::CHUNK_BYTES;
use edgeward::slots::Slots;
use edgeward::telemetry::codec::max_frame_bytes;
use edgeward::telemetry::outbox::Outbox;
use edgeward::topic::TOPIC_BYTES;
use edgeward_firmware::provisioning::Provisioning;
use minimq::{Buffers, Session};

/// What MQTT adds to a chunk: header, topic, properties.
const PACKET_BYTES: usize = TOPIC_BYTES + 144;

/// What MQTT keeps for the beginning of a connection, with names, password and last will as long as they may be, and
/// adds to a message.
const BEGINNING_BYTES: usize = 400 + TOPIC_BYTES;
/// Room beside the largest frame, for some small ones and subscriptions.
const BESIDE_BYTES: usize = 256;

/// Bytes of what is to be sent.
#[must_use]
pub const fn send_bytes(features: usize, outputs: usize) -> usize {
    max_frame_bytes(features, outputs) + BEGINNING_BYTES + BESIDE_BYTES
}

/// The application's working memory; a `static` of the board's crate, with [`send_bytes`] for what is to be sent.
#[derive(Debug)]
pub struct Memory<W: ?Sized = [u8]> {
    head: [u8; HEAD_CHUNKS * CHUNK_BYTES],
    receive: [u8; CHUNK_BYTES + PACKET_BYTES],
    who: Option<Provisioning<'static>>,
    send: W,
}

impl<const W: usize> Memory<[u8; W]> {
    /// Memory in which nothing is.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            head: [0; HEAD_CHUNKS * CHUNK_BYTES],
            receive: [0; CHUNK_BYTES + PACKET_BYTES],
            who: None,
            send: [0; W],
        }
    }
}

impl Memory {
    /// Divides it.
    pub(crate) fn divide(&'static mut self) -> Places {
        Places {
            head: &mut self.head,
            who: &mut self.who,
            buffers: Buffers::new(&mut self.receive, &mut self.send),
        }
    }
}

/// The parts of a [`Memory`].
pub(crate) struct Places {
    /// For a release's head.
    pub head: &'static mut [u8],
    /// Who the board is.
    pub who: &'static mut Option<Provisioning<'static>>,
    /// What MQTT receives and sends in.
    pub buffers: Buffers<'static>,
}

impl<const W: usize> Default for Memory<[u8; W]> {
    fn default() -> Self {
        Self::new()
    }
}

/// Where the application lies once it runs. Each part is made where it stays: on its way there it would take
/// as much of the stack, several times over. For models of at most `F` features and `C` outputs; `B` is
/// [`max_buffer_bytes`](edgeward::telemetry::outbox::max_buffer_bytes) of the two.
pub struct Space<S: Flash + 'static, const F: usize, const C: usize, const B: usize> {
    pub(crate) slots: MaybeUninit<Slots<StoreFlash<S>>>,
    pub(crate) outbox: MaybeUninit<Frames<S, F, C, B>>,
    pub(crate) session: MaybeUninit<Session<'static>>,
    pub(crate) app: MaybeUninit<App<S, F, C, B>>,
}

/// The outbox as microcontrollers have it.
pub(crate) type Frames<S, const F: usize, const C: usize, const B: usize> =
    Outbox<StoreFlash<S>, F, C, RECORDS, B>;

impl<S: Flash, const F: usize, const C: usize, const B: usize> Space<S, F, C, B> {
    /// Room for an application.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: MaybeUninit::uninit(),
            outbox: MaybeUninit::uninit(),
            session: MaybeUninit::uninit(),
            app: MaybeUninit::uninit(),
        }
    }
}

impl<S: Flash, const F: usize, const C: usize, const B: usize> Default for Space<S, F, C, B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Flash, const F: usize, const C: usize, const B: usize> core::fmt::Debug
    for Space<S, F, C, B>
{
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Space").finish_non_exhaustive()
    }
}
