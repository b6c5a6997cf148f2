//! TCP by embassy-net.

use core::net::SocketAddrV4;
use edgeward_mcu::board::{Network, Unreachable};
use embassy_net::tcp::TcpSocket;
use embassy_net::{IpEndpoint, Stack};
use embassy_time::{Duration, with_timeout};
use static_cell::ConstStaticCell;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Silence of the peer after which a connection is given up, and how often it is asked before.
const SILENCE: Duration = Duration::from_secs(20);
const ASK: Duration = Duration::from_secs(5);

/// A chunk of a release comes in three parts, a frame goes in as many: what is on its way beyond that waits at the
/// other end.
const RECEIVE_BYTES: usize = 2048;
const SEND_BYTES: usize = 1024;

static RECEIVE: ConstStaticCell<[u8; RECEIVE_BYTES]> = ConstStaticCell::new([0; RECEIVE_BYTES]);
static SEND: ConstStaticCell<[u8; SEND_BYTES]> = ConstStaticCell::new([0; SEND_BYTES]);

/// Sockets that a stack must have room for: DHCP's, and that of a connection, which is gone before the next one is made.
pub const SOCKETS: usize = 2;

/// The network.
pub struct Lan {
    stack: Stack<'static>,
    receive: &'static mut [u8],
    send: &'static mut [u8],
}

impl Lan {
    /// The one network of a board: a second one would find no buffers.
    pub fn new(stack: Stack<'static>) -> Self {
        Self {
            stack,
            receive: RECEIVE.take(),
            send: SEND.take(),
        }
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
