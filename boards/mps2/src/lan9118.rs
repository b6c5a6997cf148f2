//! The board's Ethernet: an SMSC LAN9118 as QEMU has it.

use crate::executor;
use core::sync::atomic::{AtomicPtr, Ordering};
use embassy_executor::Spawner;
use embassy_futures::select::{Either, select};
use embassy_net_driver_channel::driver::{HardwareAddress, LinkState};
use embassy_net_driver_channel::{Runner, RxRunner, State, new};
use embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use embassy_sync::signal::Signal;
use static_cell::ConstStaticCell;

/// Its interrupt.
pub const IRQ: i16 = 13;
/// Bytes of a frame without its check sequence.
const MTU: usize = 1514;
/// Bytes of the check sequence at its end.
const CHECK_BYTES: usize = 4;

/// What embassy-net drives.
pub type Device = embassy_net_driver_channel::Device<'static, MTU>;

/// Room for one frame that came and one that goes: others wait in the device.
static STATE: ConstStaticCell<State<MTU, 1, 1>> = ConstStaticCell::new(State::new());
static NEWS: Signal<CriticalSectionRawMutex, ()> = Signal::new();

/// Where the device is; nothing before [`start`].
static BASE: AtomicPtr<u32> = AtomicPtr::new(core::ptr::null_mut());

/// Registers, by their offset in bytes.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Register {
    RxData = 0x00,
    TxData = 0x20,
    RxStatus = 0x40,
    TxStatus = 0x48,
    IrqConfig = 0x54,
    IntStatus = 0x58,
    IntEnable = 0x5C,
    FifoInt = 0x68,
    RxConfig = 0x6C,
    TxConfig = 0x70,
    HwConfig = 0x74,
    RxFifo = 0x7C,
    TxFifo = 0x80,
    MacCommand = 0xA4,
    MacData = 0xA8,
    FlowControl = 0xAC,
}

/// Registers of the MAC, behind [`Register::MacCommand`].
mod mac {
    pub const CONTROL: u32 = 1;
    pub const ADDRESS_HIGH: u32 = 2;
    pub const ADDRESS_LOW: u32 = 3;
    pub const PHY_COMMAND: u32 = 6;
    pub const PHY_DATA: u32 = 7;
    pub const BUSY: u32 = 1 << 31;
    pub const READ: u32 = 1 << 30;
    /// Full duplex, transmitter and receiver on.
    pub const ON: u32 = 1 << 20 | 1 << 3 | 1 << 2;
}

/// The receive status FIFO has an entry.
const RECEIVED: u32 = 1 << 3;
/// Enabled, active high, push-pull: as QEMU's interrupt controller wants it.
const IRQ_ON: u32 = 0x111;
/// The frame was damaged.
const RX_ERROR: u32 = 1 << 15;
/// First and last part of a frame.
const WHOLE_FRAME: u32 = 1 << 13 | 1 << 12;

fn read(register: Register) -> u32 {
    let base = BASE.load(Ordering::Relaxed);
    // SAFETY: a register of the device, which only this module uses, once it was started.
    unsafe { base.byte_add(register as usize).read_volatile() }
}

fn write(register: Register, value: u32) {
    let base = BASE.load(Ordering::Relaxed);
    // SAFETY: as above.
    unsafe { base.byte_add(register as usize).write_volatile(value) }
}

fn mac_ready() {
    while read(Register::MacCommand) & mac::BUSY != 0 {}
}

fn mac_read(register: u32) -> u32 {
    write(Register::MacCommand, mac::BUSY | mac::READ | register);
    mac_ready();
    read(Register::MacData)
}

fn mac_write(register: u32, value: u32) {
    write(Register::MacData, value);
    write(Register::MacCommand, mac::BUSY | register);
    mac_ready();
}

fn phy_write(register: u32, value: u32) {
    mac_write(mac::PHY_DATA, value);
    // PHY 1, and it is a write.
    mac_write(mac::PHY_COMMAND, 1 << 11 | register << 6 | 2);
}

/// Resets the device, switches it on, and gives its address.
fn init() -> [u8; 6] {
    write(Register::HwConfig, 1);
    while read(Register::HwConfig) & 1 != 0 {}
    // Store and forward, 5 KB for frames to send.
    write(Register::HwConfig, 1 << 20 | 5 << 16);
    write(Register::FlowControl, 0x006E_3740);
    write(Register::IntEnable, 0);
    write(Register::IntStatus, u32::MAX);
    // Announce all modes and negotiate.
    phy_write(4, 0x01E1);
    phy_write(0, 0x1200);
    write(Register::FifoInt, 0xFF00_0000);
    write(Register::RxConfig, 0);
    write(Register::TxConfig, 1 << 1);
    let low = mac_read(mac::ADDRESS_LOW).to_le_bytes();
    let high = mac_read(mac::ADDRESS_HIGH).to_le_bytes();
    mac_write(mac::CONTROL, mac::ON);
    write(Register::IrqConfig, IRQ_ON);
    [low[0], low[1], low[2], low[3], high[0], high[1]]
}

/// Starts the device that is at this address.
pub fn start(spawner: Spawner, base: u32) -> Device {
    BASE.store(base as usize as *mut u32, Ordering::Relaxed);
    let address = init();
    let state = STATE.take();
    let (runner, device) = new(state, HardwareAddress::Ethernet(address));
    if let Ok(task) = run(runner) {
        spawner.spawn(task);
    }
    executor::enable(IRQ);
    device
}

/// The device's interrupt: it stays silent until the task has looked.
pub fn on_interrupt() {
    write(Register::IntEnable, 0);
    NEWS.signal(());
}

#[embassy_executor::task]
async fn run(runner: Runner<'static, MTU>) {
    let (state, mut rx, mut tx) = runner.split();
    state.set_link_state(LinkState::Up);
    loop {
        // Acknowledged before the FIFO is drained: what comes meanwhile interrupts again.
        write(Register::IntStatus, RECEIVED);
        let full = receive(&mut rx);
        let more = async {
            if full {
                rx.rx_buf().await;
            } else {
                write(Register::IntEnable, RECEIVED);
                NEWS.wait().await;
            }
        };
        match select(more, tx.tx_buf()).await {
            Either::First(()) => {}
            Either::Second(frame) => {
                send(frame);
                tx.tx_done();
            }
        }
    }
}

/// Takes the frames that came, as long as there is room; true when one waits for it in the FIFO.
fn receive(rx: &mut RxRunner<'_, MTU>) -> bool {
    while waits() {
        let Some(buffer) = rx.try_rx_buf() else {
            return true;
        };
        if let Some(len) = received() {
            drain(len + CHECK_BYTES, buffer);
            rx.rx_done(len);
        }
    }
    false
}

/// Whether a frame is in the FIFO.
fn waits() -> bool {
    read(Register::RxFifo) >> 16 & 0xFF != 0
}

/// Takes the status of the next frame, which is there: its length without check sequence. A damaged frame is dropped.
fn received() -> Option<usize> {
    let status = read(Register::RxStatus);
    let len = (status >> 16 & 0x3FFF) as usize;
    let payload = len.saturating_sub(CHECK_BYTES);
    if status & RX_ERROR == 0 && (1..=MTU).contains(&payload) {
        return Some(payload);
    }
    drain(len, &mut []);
    None
}

/// Takes a frame of `len` bytes, its check sequence included, from the FIFO; what finds no room in
/// `buffer` is dropped.
fn drain(len: usize, buffer: &mut [u8]) {
    for word in 0..len.div_ceil(4) {
        let bytes = read(Register::RxData).to_le_bytes();
        let rest = buffer.get_mut(word * 4..).unwrap_or_default();
        for (to, from) in rest.iter_mut().zip(bytes) {
            *to = from;
        }
    }
}

/// Sends a frame. The FIFO holds several, and drains at once.
fn send(frame: &[u8]) {
    let len = frame.len() as u32;
    while read(Register::TxFifo) & 0xFFFF < len + 12 {}
    write(Register::TxData, WHOLE_FRAME | len);
    write(Register::TxData, len);
    for part in frame.chunks(4) {
        let mut word = [0; 4];
        word[..part.len()].copy_from_slice(part);
        write(Register::TxData, u32::from_le_bytes(word));
    }
    while read(Register::TxFifo) >> 16 & 0xFF != 0 {
        // Nobody asks what became of it: TCP does.
        let _ = read(Register::TxStatus);
    }
}
