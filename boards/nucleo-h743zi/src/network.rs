//! The board's Ethernet: the chip's MAC and an LAN8742 over RMII, with an address by DHCP.

use crate::{Irqs, Random};
use edgeward_board::lan::{Lan, SOCKETS};
use edgeward_mcu::board::Entropy;
use embassy_executor::Spawner;
use embassy_net::{Config, Runner, StackResources};
use embassy_stm32::Peri;
use embassy_stm32::eth::{Ethernet, GenericPhy, PacketQueue, Sma};
use embassy_stm32::peripherals::{ETH, ETH_SMA, PA1, PA2, PA7, PB13, PC1, PC4, PC5, PG11, PG13};
use embassy_stm32::uid::uid;
use static_cell::StaticCell;

type Device = Ethernet<'static, ETH, GenericPhy<Sma<'static, ETH_SMA>>>;

static QUEUE: StaticCell<PacketQueue<4, 4>> = StaticCell::new();
static RESOURCES: StaticCell<StackResources<SOCKETS>> = StaticCell::new();

/// The MAC and its pins, as the board has them.
pub struct Devices {
    pub eth: Peri<'static, ETH>,
    pub sma: Peri<'static, ETH_SMA>,
    pub clock: Peri<'static, PA1>,
    pub mdio: Peri<'static, PA2>,
    pub mdc: Peri<'static, PC1>,
    pub crs: Peri<'static, PA7>,
    pub rx: (Peri<'static, PC4>, Peri<'static, PC5>),
    pub tx: (Peri<'static, PG13>, Peri<'static, PB13>),
    pub tx_on: Peri<'static, PG11>,
}

#[embassy_executor::task]
async fn run(mut runner: Runner<'static, Device>) {
    runner.run().await;
}

/// An address that the board itself chooses, of its chip's number.
fn address() -> [u8; 6] {
    let mut address = [0x02_u8, 0, 0, 0, 0, 0];
    for (at, byte) in uid().iter().enumerate() {
        let place = &mut address[1 + at % 5];
        *place = place.rotate_left(3) ^ byte;
    }
    address
}

/// Starts device and stack.
pub fn start(spawner: Spawner, devices: Devices, entropy: &mut Random) -> Lan {
    let device = Ethernet::new(
        QUEUE.init(PacketQueue::new()),
        devices.eth,
        Irqs,
        devices.clock,
        devices.crs,
        devices.rx.0,
        devices.rx.1,
        devices.tx.0,
        devices.tx.1,
        devices.tx_on,
        address(),
        devices.sma,
        devices.mdio,
        devices.mdc,
    );
    let mut seed = [0; 8];
    entropy.fill(&mut seed);
    let resources = RESOURCES.init(StackResources::new());
    let config = Config::dhcpv4(Default::default());
    let (stack, runner) = embassy_net::new(device, config, resources, u64::from_le_bytes(seed));
    if let Ok(task) = run(runner) {
        spawner.spawn(task);
    }
    Lan::new(stack)
}
