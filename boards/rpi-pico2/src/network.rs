//! Ethernet by a WIZnet W5500 on SPI 0, wired as on WIZnet's W5500-EVB-Pico2, with an address by DHCP.

use crate::Irqs;
use crate::random::Random;
use edgeward_board::lan::{Lan, SOCKETS};
use edgeward_mcu::board::Entropy;
use embassy_executor::Spawner;
use embassy_net::{Config, StackResources};
use embassy_net_wiznet::chip::W5500;
use embassy_net_wiznet::{Device, Runner, State};
use embassy_rp::Peri;
use embassy_rp::gpio::{Input, Level, Output, Pull};
use embassy_rp::peripherals::{
    DMA_CH0, DMA_CH1, PIN_16, PIN_17, PIN_18, PIN_19, PIN_20, PIN_21, SPI0,
};
use embassy_rp::spi::{Async, Config as SpiConfig, Spi};
use embassy_time::Delay;
use embedded_hal_bus::spi::ExclusiveDevice;
use static_cell::StaticCell;

/// Bits a second of the bus.
const BUS_HZ: u32 = 33_000_000;

static STATE: StaticCell<State<4, 2>> = StaticCell::new();
static RESOURCES: StaticCell<StackResources<SOCKETS>> = StaticCell::new();

/// The bus and the pins.
pub struct Devices {
    pub spi: Peri<'static, SPI0>,
    pub clock: Peri<'static, PIN_18>,
    pub to_chip: Peri<'static, PIN_19>,
    pub from_chip: Peri<'static, PIN_16>,
    pub select: Peri<'static, PIN_17>,
    pub reset: Peri<'static, PIN_20>,
    pub interrupt: Peri<'static, PIN_21>,
    pub dma: (Peri<'static, DMA_CH0>, Peri<'static, DMA_CH1>),
}

type Bus = ExclusiveDevice<Spi<'static, SPI0, Async>, Output<'static>, Delay>;

#[embassy_executor::task]
async fn run_chip(runner: Runner<'static, W5500, Bus, Input<'static>, Output<'static>>) {
    runner.run().await;
}

#[embassy_executor::task]
async fn run(mut runner: embassy_net::Runner<'static, Device<'static>>) {
    runner.run().await;
}

/// Starts device and stack; nothing where the W5500 does not answer.
pub async fn start(spawner: Spawner, devices: Devices, entropy: &mut Random) -> Option<Lan> {
    let mut config = SpiConfig::default();
    config.frequency = BUS_HZ;
    let spi = Spi::new(
        devices.spi,
        devices.clock,
        devices.to_chip,
        devices.from_chip,
        devices.dma.0,
        devices.dma.1,
        Irqs,
        config,
    );
    let select = Output::new(devices.select, Level::High);
    let bus = ExclusiveDevice::new(spi, select, Delay).ok()?;
    let mut address = [0; 6];
    entropy.fill(&mut address);
    // One that a board may choose itself, of one station.
    address[0] = address[0] & !1 | 2;
    let (device, runner) = embassy_net_wiznet::new(
        address,
        STATE.init(State::new()),
        bus,
        Input::new(devices.interrupt, Pull::Up),
        Output::new(devices.reset, Level::High),
    )
    .await
    .ok()?;
    if let Ok(task) = run_chip(runner) {
        spawner.spawn(task);
    }
    let mut seed = [0; 8];
    entropy.fill(&mut seed);
    let resources = RESOURCES.init(StackResources::new());
    let config = Config::dhcpv4(Default::default());
    let (stack, runner) = embassy_net::new(device, config, resources, u64::from_le_bytes(seed));
    if let Ok(task) = run(runner) {
        spawner.spawn(task);
    }
    Some(Lan::new(stack))
}
