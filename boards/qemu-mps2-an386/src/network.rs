//! TCP over the board's Ethernet, with an address by DHCP.

use crate::{host, lan9118};
use core::net::SocketAddrV4;
use edgeward_mcu::board::{Entropy, Network, Unreachable};
use embassy_executor::Spawner;
use embassy_net::tcp::TcpSocket;
use embassy_net::{Config, IpEndpoint, Runner, Stack, StackResources};
use embassy_time::{Duration, Timer, with_timeout};
use static_cell::{ConstStaticCell, StaticCell};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Silence of the peer after which a connection is given up, and how often it is asked before.
const SILENCE: Duration = Duration::from_secs(20);
const ASK: Duration = Duration::from_secs(5);
/// QEMU's user network notices a new connection only when QEMU wakes up.
const TICK: Duration = Duration::from_millis(10);

const RECEIVE_BYTES: usize = 4096;
const SEND_BYTES: usize = 2048;

static RESOURCES: StaticCell<StackResources<3>> = StaticCell::new();
static RECEIVE: ConstStaticCell<[u8; RECEIVE_BYTES]> = ConstStaticCell::new([0; RECEIVE_BYTES]);
static SEND: ConstStaticCell<[u8; SEND_BYTES]> = ConstStaticCell::new([0; SEND_BYTES]);

/// The network.
pub struct Lan {
    stack: Stack<'static>,
    receive: &'static mut [u8],
    send: &'static mut [u8],
}

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
pub fn start(spawner: Spawner) -> Lan {
    let device = lan9118::start(spawner);
    let mut seed = [0; 8];
    host::Entropy.fill(&mut seed);
    let resources = RESOURCES.init(StackResources::new());
    let config = Config::dhcpv4(Default::default());
    let (stack, runner) = embassy_net::new(device, config, resources, u64::from_le_bytes(seed));
    if let Ok(task) = run(runner) {
        spawner.spawn(task);
    }
    if let Ok(task) = tick() {
        spawner.spawn(task);
    }
    Lan {
        stack,
        receive: RECEIVE.take(),
        send: SEND.take(),
    }
}

impl Network for Lan {
    type Connection<'a> = TcpSocket<'a>;

    async fn connect(&mut self, to: SocketAddrV4) -> Result<TcpSocket<'_>, Unreachable> {
        let up = with_timeout(CONNECT, self.stack.wait_config_up()).await;
        up.map_err(|_| Unreachable)?;
        let mut socket = TcpSocket::new(self.stack, self.receive, self.send);
        socket.set_timeout(Some(SILENCE));
        socket.set_keep_alive(Some(ASK));
        let to = IpEndpoint::new((*to.ip()).into(), to.port());
        match with_timeout(CONNECT, socket.connect(to)).await {
            Ok(Ok(())) => Ok(socket),
            _ => Err(Unreachable),
        }
    }
}
