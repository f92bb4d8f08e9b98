//! Tells systemd how far the service has come (`Type=notify`), if it asked to be told.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends one state, as `READY=1`. Whoever does not listen misses nothing else.
pub(super) fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(path.as_encoded_bytes(), state) {
        tracing::warn!(%error, "can not notify systemd");
    }
}

fn send(path: &[u8], state: &str) -> std::io::Result<()> {
    // A name that begins with @ is not in the file system.
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(String::from_utf8_lossy(path).as_ref())?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_hears_the_state() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("notify");
        let listener = UnixDatagram::bind(&path).expect("free");
        send(path.as_os_str().as_encoded_bytes(), "READY=1").expect("sent");
        let mut state = [0; 32];
        let len = listener.recv(&mut state).expect("received");
        assert_eq!(&state[..len], b"READY=1");
    }
}
