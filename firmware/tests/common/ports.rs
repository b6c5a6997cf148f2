//! Ports for servers that can't be asked where they listen.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below those that the system gives to connections: none takes such a port until the server has it, and
/// no connection to it can meet itself.
const PORTS: std::ops::Range<u32> = 10_000..32_000;

/// A port that nobody listens on. Each is given once, and other processes begin elsewhere.
pub fn free_port() -> u16 {
    static BEGIN: OnceLock<u32> = OnceLock::new();
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let begin = *BEGIN.get_or_init(|| RandomState::new().hash_one(std::process::id()) as u32);
    loop {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        let offset = begin.wrapping_add(given) % PORTS.len() as u32;
        let port = (PORTS.start + offset) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
