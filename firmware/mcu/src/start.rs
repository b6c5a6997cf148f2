//! From power on to the application's loop.

use crate::app::{App, Line, now};
use crate::board::{Entropy, Flash, Network, Power};
use crate::space::{Frames, Memory, Space};
use crate::store::{Store, StoreFlash};
#[cfg(feature = "tls")]
use crate::way::Secure;
use crate::way::{Plain, Way};
use crate::{Link, key};
use core::convert::Infallible;
use core::mem::MaybeUninit;
use core::net::SocketAddrV4;
use core::num::NonZeroU32;
use edgeward::RUNTIME_VERSION;
use edgeward::bundle::{BoardClass, Capabilities};
use edgeward::program::Layout;
use edgeward::slots::{self, BootDecision, Slots};
use edgeward::sync::{Board, Config, UpdateClient};
use edgeward::telemetry::Text;
use edgeward::telemetry::outbox::{Outbox, OutboxError};
use edgeward::topic::{self, Channel};
use edgeward::trust::Signer;
use edgeward::trust::dalek::{DalekSigner, DalekVerifier};
use edgeward::trust::root::Root;
use edgeward_firmware::control::{Control, ControlError, OFFLINE, Parts as HeadParts, Setup};
use edgeward_firmware::provisioning::{Provisioning, ProvisioningError};
use embassy_time::{Duration, Timer};
use embedded_storage::nor_flash::NorFlashErrorKind;
use heapless::{String, Vec};
use minimq::{Buffers, ConfigBuilder, QoS, Session, Will};

/// Kernels for which this application runs programs.
const KERNELS: [&str; 2] = [Layout::Natural.kernels(), Layout::CortexM.kernels()];
/// Seconds of silence after which the broker takes the board for dead.
const KEEP_ALIVE_S: u16 = 15;
/// How long to wait after a start that failed before the board is started again.
const AGAIN: Duration = Duration::from_secs(60);

/// Why the application does not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartError {
    /// The host has not provisioned the board, or not well.
    Provisioning(ProvisioningError),
    /// The trust root in it is not signed by its own keys.
    Root,
    /// The device's key is lost.
    Key,
    /// The flash does not give the device's key, or does not take it.
    KeyFlash(NorFlashErrorKind),
    /// Journal or slots.
    Slots(slots::Error),
    /// The outbox.
    Outbox(OutboxError),
    /// The first report could not be stored.
    Control(ControlError),
    /// A name is longer than MQTT takes it.
    Name,
    /// The broker speaks TLS and the firmware was built without it.
    NoTls,
    /// The broker can't be known by what the host wrote.
    #[cfg(feature = "tls")]
    Tls(edgeward_tls::TlsError),
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Provisioning(error) => error.fmt(f),
            Self::Root => f.write_str("the trust root is not signed by its own keys"),
            Self::Key => f.write_str("the device's key is lost"),
            Self::KeyFlash(kind) => write!(f, "the device's key: {kind:?}"),
            Self::Slots(error) => write!(f, "slots: {error:?}"),
            Self::Outbox(error) => error.fmt(f),
            Self::Control(error) => error.fmt(f),
            Self::Name => f.write_str("a name is too long for MQTT"),
            Self::NoTls => f.write_str("the broker speaks TLS and this firmware does not"),
            #[cfg(feature = "tls")]
            Self::Tls(error) => write!(f, "whom to trust at the broker: {error}"),
        }
    }
}

impl core::error::Error for StartError {}

#[cfg(feature = "defmt")]
impl defmt::Format for StartError {
    fn format(&self, f: defmt::Formatter<'_>) {
        match self {
            Self::Provisioning(error) => defmt::write!(f, "{}", error),
            Self::Root => defmt::write!(f, "the trust root is not signed by its own keys"),
            Self::Key => defmt::write!(f, "the device's key is lost"),
            Self::KeyFlash(kind) => defmt::write!(f, "the device's key: {}", kind),
            Self::Slots(error) => defmt::write!(f, "slots: {}", error),
            Self::Outbox(error) => defmt::write!(f, "outbox: {}", error),
            Self::Control(error) => defmt::write!(f, "{}", error),
            Self::Name => defmt::write!(f, "a name is too long for MQTT"),
            Self::NoTls => defmt::write!(f, "the broker speaks TLS and this firmware does not"),
            #[cfg(feature = "tls")]
            Self::Tls(error) => defmt::write!(f, "whom to trust at the broker: {}", error),
        }
    }
}

impl StartError {
    /// Whether another start may go well: the flash failed, which it may not do the next time, or held an outbox of
    /// another program, which is gone then.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::KeyFlash(_) | Self::Control(_) => true,
            Self::Outbox(error) => matches!(error, OutboxError::Flash(_)) || error.is_foreign(),
            Self::Slots(error) => matches!(error, slots::Error::Flash(_) | slots::Error::Worn),
            _ => false,
        }
    }
}

/// What the application is made of.
#[derive(Debug)]
pub struct Parts<S: Flash + 'static, N, E, const F: usize, const C: usize, const B: usize> {
    /// The flash.
    pub store: &'static Store<S>,
    /// Working memory.
    pub memory: &'static mut Memory,
    /// Where the application is to lie.
    pub space: &'static mut Space<S, F, C, B>,
    /// The network.
    pub network: N,
    /// Randomness.
    pub entropy: E,
    /// The way to the inference task.
    pub link: &'static Link<F, C>,
    /// The board's name and the firmware's version, for people.
    pub firmware: &'static str,
    /// Bytes of the arena that the inference task has.
    pub arena_bytes: u32,
}

/// Starts the application and runs it for ever, with a broker that is spoken to in plain. Where the flash
/// keeps it from starting, the board is started again after a minute. A start that takes two minutes ends by the
/// watchdog.
///
/// # Errors
/// [`StartError`] when it can't start and never will; nothing was sent then, and the watchdog is fed on.
pub fn run<S: Flash, N: Network, E: Entropy, const F: usize, const C: usize, const B: usize>(
    parts: Parts<S, N, E, F, C, B>,
    power: impl Power,
) -> impl Future<Output = Result<Infallible, StartError>> {
    run_over(parts, power, plain)
}

/// The way to a broker that is spoken to in plain, for boards that can't do otherwise.
fn plain(who: &Provisioning<'_>) -> Result<Plain, StartError> {
    match who.secure {
        None => Ok(Plain),
        Some(_) => Err(StartError::NoTls),
    }
}

/// As [`run`], with a broker that is spoken to in TLS if the board was provisioned so.
///
/// # Errors
/// As [`run`].
#[cfg(feature = "tls")]
pub fn run_secure<
    S: Flash,
    N: Network,
    E: Entropy,
    const F: usize,
    const C: usize,
    const B: usize,
>(
    parts: Parts<S, N, E, F, C, B>,
    memory: &'static mut edgeward_tls::Memory,
    power: impl Power,
) -> impl Future<Output = Result<Infallible, StartError>> {
    run_over(parts, power, |who| {
        Secure::new(who, memory).map_err(StartError::Tls)
    })
}

/// Runs with the way to the broker that `way` makes of what the host wrote.
async fn run_over<
    S: Flash,
    N: Network,
    E: Entropy,
    W: Way,
    const F: usize,
    const C: usize,
    const B: usize,
>(
    parts: Parts<S, N, E, F, C, B>,
    mut power: impl Power,
    way: impl FnOnce(&'static Provisioning<'static>) -> Result<W, StartError>,
) -> Result<Infallible, StartError> {
    let link = parts.link;
    // Kept as it is and borrowed: what is moved is on its way in the stack, for as long as the task runs.
    let mut started = start(parts, &mut power, way);
    let error = match &mut started {
        Ok(started) => started.app.run(&mut started.line).await,
        Err(error) => *error,
    };
    if error.may_pass() {
        say!(
            error,
            "can't start: {}; again in {} s",
            error,
            AGAIN.as_secs()
        );
        // The wait is no part of the start.
        link.turn();
        Timer::after(AGAIN).await;
        power.restart();
    }
    link.stay();
    Err(error)
}

/// An application that is ready to run.
struct Started<A: 'static, L> {
    app: &'static mut A,
    line: L,
    /// What its boot is to do.
    boot: BootDecision,
}

/// What a start comes to.
type Begun<S, N, E, W, const F: usize, const C: usize, const B: usize> =
    Result<Started<App<S, F, C, B>, Line<N, E, W>>, StartError>;

#[inline(never)]
fn start<
    S: Flash,
    N: Network,
    E: Entropy,
    W: Way,
    const F: usize,
    const C: usize,
    const B: usize,
>(
    parts: Parts<S, N, E, F, C, B>,
    power: &mut impl Power,
    way: impl FnOnce(&'static Provisioning<'static>) -> Result<W, StartError>,
) -> Begun<S, N, E, W, F, C, B> {
    let started = assemble(parts, way)?;
    // Everything is where it stays, and what of the stack the way there took is free again.
    let begun = started.app.control.begin(started.boot, now());
    begun.map_err(StartError::Control)?;
    report(started.app, power);
    Ok(started)
}

/// Makes the application in its place, and counts the boot.
#[inline(never)]
fn assemble<
    S: Flash,
    N: Network,
    E: Entropy,
    W: Way,
    const F: usize,
    const C: usize,
    const B: usize,
>(
    parts: Parts<S, N, E, F, C, B>,
    way: impl FnOnce(&'static Provisioning<'static>) -> Result<W, StartError>,
) -> Begun<S, N, E, W, F, C, B> {
    let Parts {
        store,
        memory,
        space,
        network,
        mut entropy,
        link,
        firmware,
        arena_bytes,
    } = parts;
    let places = memory.divide();
    let who = decode(store, places.who)?;
    let signer = key::load_or_create(StoreFlash(store), store.map().key, &mut entropy)?;
    let device = who.device.as_str();
    say!(
        info,
        "device {=str} key {=str}",
        device,
        hex(&signer.public_key().0).as_str()
    );
    // What will never go well is refused before anything is counted: no release is to blame for it.
    let way = way(who)?;
    let session = session(who, places.buffers, &mut space.session)?;
    let slots = open_slots(store, who.root, &mut space.slots)?;
    // Before the boot is counted: an outbox that can't be read wears out no journal, and no release is to
    // blame for it.
    let number = slots.state().boot.saturating_add(1);
    let outbox = open_outbox(store, number, random(&mut entropy), &mut space.outbox)?;
    let boot = slots.begin_boot().map_err(StartError::Slots)?;
    say!(info, "boot {} {}", number, boot);
    let found = Found {
        store,
        link,
        who,
        firmware,
        arena_bytes,
        signer,
        slots,
        outbox,
        head: places.head,
        spare_epoch: random(&mut entropy),
        jitter: random(&mut entropy),
    };
    let app = found.put(&mut space.app);
    let line = Line {
        network,
        way,
        entropy,
        session,
        broker: SocketAddrV4::new(who.broker.into(), who.port),
    };
    Ok(Started { app, line, boot })
}

/// What an application is made of, once all is open.
struct Found<S: Flash + 'static, const F: usize, const C: usize, const B: usize> {
    store: &'static Store<S>,
    link: &'static Link<F, C>,
    who: &'static Provisioning<'static>,
    firmware: &'static str,
    arena_bytes: u32,
    signer: DalekSigner,
    slots: &'static mut Slots<StoreFlash<S>>,
    outbox: &'static mut Frames<S, F, C, B>,
    /// For a release's head.
    head: &'static mut [u8],
    spare_epoch: NonZeroU32,
    jitter: NonZeroU32,
}

impl<S: Flash, const F: usize, const C: usize, const B: usize> Found<S, F, C, B> {
    /// Makes the application in its place. Apart from what opens flash, which takes much of the stack as well.
    #[inline(never)]
    fn put(self, room: &'static mut MaybeUninit<App<S, F, C, B>>) -> &'static mut App<S, F, C, B> {
        let slot_bytes = self.store.map().slots.slot_bytes;
        let sync = sync_config(self.who, slot_bytes, self.arena_bytes);
        let parts = HeadParts {
            setup: setup(self.who, self.firmware),
            signer: self.signer,
            verifier: DalekVerifier,
            slots: self.slots,
            client: UpdateClient::new(sync, DalekVerifier, self.head),
            outbox: self.outbox,
            spare_epoch: self.spare_epoch,
        };
        let control = Control::new(parts, now());
        room.write(App::new(control, self.store, self.link, self.jitter.get()))
    }
}

/// What the host wrote, in its place.
#[inline(never)]
fn decode<S: Flash>(
    store: &'static Store<S>,
    who: &'static mut Option<Provisioning<'static>>,
) -> Result<&'static Provisioning<'static>, StartError> {
    let found = Provisioning::decode(store.provisioning()).map_err(StartError::Provisioning)?;
    Ok(who.insert(found))
}

/// Reports how the boot before this one ended. Nothing hangs on it: a board that can't say so runs, and
/// the next start tries again. A crash whose report is stored and not forgotten yet as the power goes is
/// reported twice.
fn report<S: Flash, const F: usize, const C: usize, const B: usize>(
    app: &mut App<S, F, C, B>,
    power: &mut impl Power,
) {
    let Some((how, at)) = power.crash().read() else {
        return;
    };
    say!(warn, "the boot before crashed: {} at {:#x}", how, at);
    match app.control.crashed(how, at, now()) {
        Ok(()) => power.forget_crash(),
        Err(error) => say!(warn, "the crash is not reported: {}", error),
    }
}

fn setup<'a>(who: &'a Provisioning<'_>, firmware: &str) -> Setup<'a> {
    Setup {
        fleet: who.fleet.clone(),
        device: who.device.clone(),
        class: BoardClass::Mcu,
        firmware: Text::try_from(firmware).unwrap_or_default(),
        tags: &who.tags,
    }
}

fn open_outbox<S: Flash, const F: usize, const C: usize, const B: usize>(
    store: &'static Store<S>,
    boot: u32,
    fresh: NonZeroU32,
    room: &'static mut MaybeUninit<Frames<S, F, C, B>>,
) -> Result<&'static mut Frames<S, F, C, B>, StartError> {
    let region = store.map().outbox;
    let opened = Outbox::open_in(room, StoreFlash(store), region, boot, fresh);
    opened.map_err(|error| begin_anew::<S, F, C, B>(store, error))
}

/// Where the region holds no outbox of this board, the next start finds it empty.
#[inline(never)]
fn begin_anew<S: Flash, const F: usize, const C: usize, const B: usize>(
    store: &'static Store<S>,
    error: OutboxError,
) -> StartError {
    if !error.is_foreign() {
        return StartError::Outbox(error);
    }
    say!(warn, "{}: what waits in it is dropped", error);
    let formatted = Frames::<S, F, C, B>::format(&mut StoreFlash(store), &store.map().outbox);
    StartError::Outbox(formatted.err().unwrap_or(error))
}

/// Where journal and slots are to be.
type SlotsRoom<S> = &'static mut MaybeUninit<Slots<StoreFlash<S>>>;

/// Opens journal and slots; a blank flash is provisioned with the first trust root. Each step is apart, so that
/// none takes of the stack what another one did.
fn open_slots<S: Flash>(
    store: &'static Store<S>,
    signed_root: &[u8],
    room: SlotsRoom<S>,
) -> Result<&'static mut Slots<StoreFlash<S>>, StartError> {
    match read_slots(store, room) {
        Ok(slots) => Ok(slots),
        Err((slots::Error::Unprovisioned, room)) => first_slots(store, signed_root, room),
        Err((error, _)) => Err(StartError::Slots(error)),
    }
}

/// Opens journal and slots, or gives the room for them back.
#[inline(never)]
fn read_slots<S: Flash>(
    store: &'static Store<S>,
    room: SlotsRoom<S>,
) -> Result<&'static mut Slots<StoreFlash<S>>, (slots::Error, SlotsRoom<S>)> {
    match Slots::open(StoreFlash(store), store.map().slots) {
        Ok(slots) => Ok(room.write(slots)),
        Err(error) => Err((error, room)),
    }
}

#[inline(never)]
fn first_slots<S: Flash>(
    store: &'static Store<S>,
    signed_root: &[u8],
    room: SlotsRoom<S>,
) -> Result<&'static mut Slots<StoreFlash<S>>, StartError> {
    let root = first_root(signed_root)?;
    provision(store, root, room)
}

#[inline(never)]
fn first_root(signed: &[u8]) -> Result<Root, StartError> {
    Root::accept_first(signed, &DalekVerifier).map_err(|_| StartError::Root)
}

#[inline(never)]
fn provision<S: Flash>(
    store: &'static Store<S>,
    root: Root,
    room: SlotsRoom<S>,
) -> Result<&'static mut Slots<StoreFlash<S>>, StartError> {
    match Slots::provision(StoreFlash(store), store.map().slots, root) {
        Ok(slots) => Ok(room.write(slots)),
        Err(error) => Err(StartError::Slots(error)),
    }
}

fn random(entropy: &mut impl Entropy) -> NonZeroU32 {
    let mut bytes = [0; 4];
    entropy.fill(&mut bytes);
    NonZeroU32::new(u32::from_le_bytes(bytes)).unwrap_or(NonZeroU32::MIN)
}

fn sync_config(
    who: &'static Provisioning<'static>,
    slot_bytes: u32,
    arena: u32,
) -> Config<'static> {
    Config {
        board: Board {
            fleet: &who.fleet,
            device: &who.device,
            class: BoardClass::Mcu,
            tags: &who.tags,
        },
        capabilities: Capabilities {
            class: BoardClass::Mcu,
            kernels: &KERNELS,
            runtime: RUNTIME_VERSION,
            slot_bytes,
            arena_bytes: arena,
        },
        timeout_ms: 5_000,
        backoff_ms: 500,
        backoff_max_ms: 60_000,
    }
}

/// The session of MQTT. It ends with each connection: the outbox and the update client know better what
/// was lost than a broker does.
///
/// # Errors
/// [`StartError::Name`] where MQTT has no room for a name or a password.
#[inline(never)]
fn session(
    who: &'static Provisioning<'static>,
    buffers: Buffers<'static>,
    room: &'static mut MaybeUninit<Session<'static>>,
) -> Result<&'static mut Session<'static>, StartError> {
    let config = session_config(who, buffers).ok_or(StartError::Name)?;
    Ok(room.write(Session::new(config)))
}

fn session_config(
    who: &'static Provisioning<'static>,
    buffers: Buffers<'static>,
) -> Option<ConfigBuilder<'static>> {
    let state = topic::device(&who.fleet, &who.device, Channel::State);
    let will = Will::new(&state, OFFLINE.as_bytes(), &[]).ok()?;
    let mut name: Vec<u8, 64> = Vec::new();
    // The same as the Linux agent's: one name, one board, for no name has a dot.
    for part in ["edgeward.", &who.fleet, ".", &who.device] {
        name.extend_from_slice(part.as_bytes()).ok()?;
    }
    let name = core::str::from_utf8(&name).ok()?;
    let mut config = ConfigBuilder::new(buffers)
        .client_id(name)
        .ok()?
        .keepalive_interval(KEEP_ALIVE_S)
        .will(will.qos(QoS::AtLeastOnce).retained())
        .ok()?;
    if !who.username.is_empty() {
        config = config.auth(&who.username, who.password.as_bytes()).ok()?;
    }
    Some(config)
}

/// A key as digits, without `core::fmt`.
fn hex(key: &[u8; 32]) -> String<64> {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('?');
    let mut text = String::new();
    for digit in key
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
    {
        // There is room for all.
        let _ = text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests;
