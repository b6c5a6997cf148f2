use super::*;
use crate::CrashRecord;
use crate::board::Unreachable;
use crate::testing::model::{self, BUFFER_BYTES};
use crate::testing::{Counting, ERASE, MemoryFlash, store_of};
use core::sync::atomic::Ordering;
use edgeward::telemetry::{Crash, Id};
use edgeward::trust::cose::{ContentType, sign_embedded};
use edgeward::trust::ring::RingSigner;
use edgeward::trust::root::{MAX_ROOT_BYTES, RoleKeys};
use edgeward_firmware::provisioning::Secure;
use embedded_storage::nor_flash::NorFlash;

/// What a restart would do.
struct Board {
    record: CrashRecord,
}

impl Power for Board {
    fn crash(&self) -> CrashRecord {
        self.record
    }

    fn forget_crash(&mut self) {
        self.record = CrashRecord::NONE;
    }

    fn restart(&mut self) -> ! {
        panic!("restarted");
    }
}

struct Nowhere;

impl Network for Nowhere {
    type Connection<'a> = Never;

    async fn connect(&mut self, _: SocketAddrV4) -> Result<Never, Unreachable> {
        Err(Unreachable)
    }
}

enum Never {}

impl embedded_io_async::ErrorType for Never {
    type Error = Infallible;
}

impl embedded_io_async::Read for Never {
    async fn read(&mut self, _: &mut [u8]) -> Result<usize, Infallible> {
        match *self {}
    }
}

impl embedded_io_async::Write for Never {
    async fn write(&mut self, _: &[u8]) -> Result<usize, Infallible> {
        match *self {}
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        match *self {}
    }
}

/// A flash as the host provisions it, that takes so many writes.
fn provisioned(writes: usize) -> &'static Store<MemoryFlash> {
    provisioned_for(writes, None)
}

/// The same for a broker that is known so.
fn provisioned_for(writes: usize, secure: Option<Secure<'_>>) -> &'static Store<MemoryFlash> {
    let key = RingSigner::from_seed(&[1; 32]).unwrap();
    let role = || RoleKeys::new(1, &[key.public_key()]).unwrap();
    let root = Root {
        version: 1,
        roles: [role(), role(), role(), role()],
    };
    let (mut payload, mut signed) = ([0; MAX_ROOT_BYTES], [0; 2 * MAX_ROOT_BYTES]);
    let payload = root.encode(&mut payload).unwrap();
    let len = sign_embedded(&key, ContentType::Root, payload, &mut signed).unwrap();
    let who = Provisioning {
        fleet: Id::try_from("f").unwrap(),
        device: Id::try_from("d").unwrap(),
        tags: Vec::new(),
        broker: [127, 0, 0, 1],
        port: 1,
        username: Text::new(),
        password: Text::new(),
        secure,
        root: &signed[..len],
    };
    let mut bytes = [0xFF; ERASE];
    who.encode(&mut bytes).unwrap();
    let mut flash = MemoryFlash::blank(256 * 1024);
    flash.write(0, &bytes).unwrap();
    flash.writes = writes;
    store_of(flash)
}

fn parts(
    store: &'static Store<MemoryFlash>,
) -> Parts<MemoryFlash, Nowhere, Counting, 16, 16, BUFFER_BYTES> {
    Parts {
        store,
        memory: Box::leak(Box::new(model::Memory::new())),
        space: Box::leak(Box::new(Space::new())),
        network: Nowhere,
        entropy: Counting(1),
        link: Box::leak(Box::new(Link::new())),
        firmware: "test",
        arena_bytes: 1024,
    }
}

/// As [`run`] does it.
fn plainly(
    store: &'static Store<MemoryFlash>,
    board: &mut Board,
) -> Begun<MemoryFlash, Nowhere, Counting, Plain, 16, 16, BUFFER_BYTES> {
    start(parts(store), board, plain)
}

/// The boots that a board has counted.
fn boots(store: &'static Store<MemoryFlash>) -> Result<u32, slots::Error> {
    Slots::open(StoreFlash(store), store.map().slots).map(|slots| slots.state().boot)
}

#[test]
fn a_broker_that_is_none_for_this_board_is_refused_before_a_boot_is_counted() {
    let record = CrashRecord::NONE;
    let secure = |authority: &'static [u8]| Secure {
        name: "broker.site",
        authorities: Vec::from_slice(&[authority]).unwrap(),
        since_s: 1_800_000_000,
    };
    // It runs first, and its boot is counted.
    let store = provisioned_for(usize::MAX, None);
    assert!(plainly(store, &mut Board { record }).is_ok());
    assert_eq!(boots(store), Ok(1));
    let store = provisioned_for(usize::MAX, Some(secure(b"no certificate")));
    for _ in 0..2 {
        let error = plainly(store, &mut Board { record }).err();
        assert_eq!(error, Some(StartError::NoTls));
        assert_eq!(boots(store), Err(slots::Error::Unprovisioned));
    }
}

#[cfg(feature = "tls")]
#[test]
fn an_authority_that_is_none_is_refused_before_a_boot_is_counted() {
    use edgeward_tls::TlsError;
    let record = CrashRecord::NONE;
    let secure = |name: &'static str| Secure {
        name,
        authorities: Vec::from_slice(&[&b"no certificate"[..]]).unwrap(),
        since_s: 1_800_000_000,
    };
    for (name, error) in [
        ("broker.site", TlsError::Certificate),
        ("no name", TlsError::Name),
    ] {
        let store = provisioned_for(usize::MAX, Some(secure(name)));
        for _ in 0..2 {
            let way = |who: &'static Provisioning<'static>| {
                let memory = Box::leak(Box::new(edgeward_tls::Memory::new()));
                crate::way::Secure::new(who, memory).map_err(StartError::Tls)
            };
            let refused = start(parts(store), &mut Board { record }, way).err();
            assert_eq!(refused, Some(StartError::Tls(error)));
            assert!(!StartError::Tls(error).may_pass());
            assert_eq!(boots(store), Err(slots::Error::Unprovisioned));
        }
    }
}

#[test]
fn a_crash_is_forgotten_once_it_is_stored_and_flash_that_fails_is_worth_another_start() {
    let record = CrashRecord::new(Crash::Panic, 7);
    let (mut failed, mut kept) = (0, 0);
    for writes in 0.. {
        let store = provisioned(writes);
        let mut board = Board { record };
        match plainly(store, &mut board) {
            Err(error) => {
                assert!(error.may_pass(), "{error} after {writes} writes");
                assert_eq!(board.record, record);
                failed += 1;
            }
            Ok(_) if board.record == record => kept += 1,
            Ok(_) => break,
        }
        // At the next start all is well, and the crash is told then.
        store.power_on();
        assert!(plainly(store, &mut board).is_ok(), "{writes} writes");
        assert_eq!(board.record, CrashRecord::NONE);
    }
    assert!(failed > 0 && kept > 0, "{failed} {kept}");
}

/// A broker that takes a connection and says nothing more.
#[derive(Default)]
struct Accepting {
    said: usize,
}

impl embedded_io_async::ErrorType for Accepting {
    type Error = Infallible;
}

impl embedded_io_async::Read for Accepting {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Infallible> {
        /// CONNACK of MQTT 5: no session, accepted, no properties.
        const ACCEPTED: [u8; 5] = [0x20, 3, 0, 0, 0];
        let rest = &ACCEPTED[self.said..];
        if rest.is_empty() {
            core::future::pending::<()>().await;
        }
        let length = bytes.len().min(rest.len());
        bytes[..length].copy_from_slice(&rest[..length]);
        self.said += length;
        Ok(length)
    }
}

impl embedded_io_async::Write for Accepting {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        Ok(bytes.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

#[test]
fn the_largest_frame_and_a_request_fit_beside_the_longest_beginning_of_a_connection() {
    use crate::line::{Wire, subscribe};
    use crate::space::send_bytes;
    use edgeward::telemetry::codec::max_frame_bytes;
    use edgeward_firmware::transport::Transport as _;
    let text = |length: usize| "x".repeat(length);
    let who: &'static Provisioning<'static> = Box::leak(Box::new(Provisioning {
        // As long as a client's name in MQTT allows.
        fleet: Id::try_from(&*text(32)).unwrap(),
        device: Id::try_from(&*text(22)).unwrap(),
        tags: Vec::new(),
        broker: [127, 0, 0, 1],
        port: 1,
        username: Text::try_from(&*text(32)).unwrap(),
        password: Text::try_from(&*text(32)).unwrap(),
        secure: None,
        root: &[],
    }));
    let leak = |bytes: usize| Box::leak(vec![0; bytes].into_boxed_slice());
    for (features, outputs) in [(1, 1), (6, 4), (128, 32)] {
        let buffers = Buffers::new(leak(512), leak(send_bytes(features, outputs)));
        let mut session = Session::new(session_config(who, buffers).unwrap());
        let connected = embassy_futures::block_on(session.connect(Accepting::default()));
        let mut connection = connected.ok().unwrap();
        let topic = topic::device(&who.fleet, &who.device, Channel::Summary);
        let asked = embassy_futures::block_on(subscribe(&mut connection, &topic, true));
        assert_eq!(asked, Ok(true));
        let mut wire = Wire {
            connection: &mut connection,
            waker: core::task::Waker::noop(),
        };
        let frame = leak(max_frame_bytes(features, outputs));
        assert_eq!(wire.publish(&topic, frame, false), Ok(()), "{features}");
    }
}

#[test]
fn an_outbox_of_another_program_gives_way_to_a_new_one_at_the_next_start() {
    let store = provisioned(usize::MAX);
    let mut region = store.map().outbox;
    region.sectors -= 1;
    let other = NonZeroU32::MIN;
    let mut outbox =
        Frames::<_, 16, 16, BUFFER_BYTES>::open(StoreFlash(store), region, 1, other).unwrap();
    let refused = edgeward::telemetry::Refused::Ack;
    let event = edgeward::telemetry::Event::Refused { what: refused };
    assert_eq!(outbox.push(0, &event), Ok(1));
    let record = CrashRecord::NONE;
    let error = plainly(store, &mut Board { record }).err();
    let foreign = StartError::Outbox(OutboxError::OtherRegion);
    assert_eq!(error, Some(foreign));
    assert!(foreign.may_pass());
    let started = plainly(store, &mut Board { record }).ok().unwrap();
    let outbox = started.app.control.outbox();
    assert_ne!(outbox.epoch(), other.get());
    // The birth of a new outbox.
    assert_eq!(outbox.next_sequence(), 2);
    // No boot was counted before there was one.
    assert_eq!(boots(store), Ok(1));
}

#[test]
fn a_board_that_nobody_provisioned_is_not_started_again() {
    let record = CrashRecord::NONE;
    let started = plainly(crate::testing::store(), &mut Board { record });
    let error = started.err().unwrap();
    let blank = StartError::Provisioning(ProvisioningError::Blank);
    assert_eq!((error, error.may_pass()), (blank, false));
    // Nor does its watchdog do so.
    let parts = parts(crate::testing::store());
    let link = parts.link;
    assert!(!link.stays.load(Ordering::Relaxed));
    let ended = embassy_futures::block_on(run(parts, Board { record }));
    assert_eq!(ended, Err(blank));
    assert!(link.stays.load(Ordering::Relaxed));
}
