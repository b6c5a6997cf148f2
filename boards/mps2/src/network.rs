//! TCP over the board's Ethernet, with an address by DHCP.

use crate::{host, lan9118};
use edgeward_board::lan::{Lan, SOCKETS};
use edgeward_mcu::board::Entropy;
use embassy_executor::Spawner;
use embassy_net::{Config, Runner, StackResources};
use embassy_time::{Duration, Timer};
use static_cell::ConstStaticCell;

/// QEMU's user network notices a new connection only when QEMU wakes up.
const TICK: Duration = Duration::from_millis(10);

static RESOURCES: ConstStaticCell<StackResources<SOCKETS>> =
    ConstStaticCell::new(StackResources::new());

#[embassy_executor::task]
async fn run(mut runner: Runner<'static, lan9118::Device>) {
    runner.run().await;
}

#[embassy_executor::task]
async fn tick() {
    loop {
        Timer::after(TICK).await;
    }
}

/// Starts device and stack.
pub fn start(spawner: Spawner, ethernet: u32) -> Lan {
    let device = lan9118::start(spawner, ethernet);
    let mut seed = [0; 8];
    host::Entropy.fill(&mut seed);
    let resources = RESOURCES.take();
    let config = Config::dhcpv4(Default::default());
    let (stack, runner) = embassy_net::new(device, config, resources, u64::from_le_bytes(seed));
    if let Ok(task) = run(runner) {
        spawner.spawn(task);
    }
    if let Ok(task) = tick() {
        spawner.spawn(task);
    }
    Lan::new(stack)
}
