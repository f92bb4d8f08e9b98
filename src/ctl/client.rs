//! One call of the API, as a client makes it: a request, then a stream of messages, over an HTTP/2
//! connection of its own. Knows no message by name, and no file.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::{Ping, PingPong, RecvStream, client};
use http::{HeaderMap, HeaderValue, Request};
use prost::Message;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Flag and length before each message.
const PREFIX_BYTES: usize = 5;
/// What may be on its way to us: enough for a fast disk behind a slow wire.
const WINDOW_BYTES: u32 = 4 << 20;
/// A message that is larger is not one of this API: blobs have 32 KiB, other clients take 4 MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// A server that does not answer a ping is gone; etcdctl's times.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_PATIENCE: Duration = Duration::from_secs(6);

/// Why a call has no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint can not be read.
    #[error("not an endpoint: {0}")]
    Endpoint(String),
    /// No connection.
    #[error("can not connect: {0}")]
    Connect(#[from] io::Error),
    /// The connection or the stream broke.
    #[error("the connection broke: {0}")]
    Http2(#[from] h2::Error),
    /// Not even a ping is answered.
    #[error("the server does not answer any more")]
    Silent,
    /// The server answered with an error of its own.
    #[error("{message} (code {code})")]
    Status {
        /// gRPC's number.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// Whoever answered does not speak gRPC.
    #[error("not a gRPC answer: {0}")]
    NotGrpc(String),
}

/// Sends `request` to `path` at `endpoint` (`host:port`, perhaps behind `http://`) and hands every message
/// of the answer to `each`, in order. Returns what `each` made of the last one.
///
/// # Errors
/// See [`Error`]; what `each` fails with ends the call.
pub async fn stream<E: From<Error>>(
    endpoint: &str,
    path: &str,
    request: &impl Message,
    dial_timeout: Duration,
    mut each: impl FnMut(Bytes) -> Result<(), E>,
) -> Result<(), E> {
    let address = address(endpoint)?;
    let dial = async {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let mut builder = client::Builder::new();
        builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
        Ok(builder.enable_push(false).handshake::<_, Bytes>(socket).await?)
    };
    let late = || Error::Connect(io::ErrorKind::TimedOut.into());
    let (sender, mut connection) = timeout(dial_timeout, dial).await.map_err(|_| late())??;
    let pings = connection.ping_pong();
    let call = async {
        let mut sender = sender.ready().await.map_err(Error::from)?;
        let (answer, mut body) =
            sender.send_request(head(address, path)?, false).map_err(Error::from)?;
        body.send_data(frame(request), true).map_err(Error::from)?;
        let answer = answer.await.map_err(Error::from)?;
        check_head(answer.status(), answer.headers())?;
        read(answer.into_body(), &mut each).await
    };
    // Whichever ends first: the call, the connection below it, or the server's patience with pings.
    let broken = async {
        match connection.await {
            Ok(()) => Error::Http2(h2::Reason::NO_ERROR.into()),
            Err(error) => error.into(),
        }
    };
    futures_lite::future::or(call, async {
        Err(futures_lite::future::or(broken, silence(pings)).await.into())
    })
    .await
}

/// Ends when the server has stopped answering.
async fn silence(pings: Option<PingPong>) -> Error {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        sleep(PING_EVERY).await;
        match timeout(PING_PATIENCE, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return Error::Silent,
        }
    }
}

fn address(endpoint: &str) -> Result<&str, Error> {
    let no = |why: &str| Err(Error::Endpoint(format!("{endpoint:?}: {why}")));
    if endpoint.starts_with("https://") || endpoint.starts_with("unix") {
        return no("only plain TCP is spoken here");
    }
    let address = endpoint.strip_prefix("http://").unwrap_or(endpoint).trim_end_matches('/');
    if address.is_empty() || !address.contains(':') {
        return no("it is host:port");
    }
    Ok(address)
}

fn head(address: &str, path: &str) -> Result<Request<()>, Error> {
    let uri = format!("http://{address}{path}");
    Request::post(uri)
        .version(http::Version::HTTP_2)
        .header("content-type", HeaderValue::from_static("application/grpc"))
        .header("te", HeaderValue::from_static("trailers"))
        .header("user-agent", HeaderValue::from_static("coredctl"))
        .body(())
        .map_err(|error| Error::Endpoint(format!("{address:?}: {error}")))
}

fn frame(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + len);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(len).expect("a request is far below 4 GiB"));
    message.encode(&mut framed).expect("the buffer grows as needed");
    framed.freeze()
}

async fn read<E: From<Error>>(
    mut body: RecvStream,
    each: &mut impl FnMut(Bytes) -> Result<(), E>,
) -> Result<(), E> {
    let mut pending = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(Error::from)?;
        pending.extend_from_slice(&chunk);
        while let Some(message) = take_message(&mut pending)? {
            each(message)?;
        }
        body.flow_control().release_capacity(chunk.len()).map_err(Error::from)?;
    }
    let trailers = poll_fn(|context| body.poll_trailers(context)).await.map_err(Error::from)?;
    check_status(trailers.as_ref())?;
    match pending.is_empty() {
        true => Ok(()),
        false => Err(Error::NotGrpc("it ends inside of a message".into()).into()),
    }
}

fn take_message(pending: &mut BytesMut) -> Result<Option<Bytes>, Error> {
    let Some((&[flag, a, b, c, d], rest)) = pending.split_first_chunk() else { return Ok(None) };
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if flag != 0 {
        return Err(Error::NotGrpc("a compressed message, though none was offered".into()));
    }
    if len > MESSAGE_BYTES_MAX {
        return Err(Error::NotGrpc(format!("a message of {len} bytes")));
    }
    if rest.len() < len {
        return Ok(None);
    }
    let mut message = pending.split_to(PREFIX_BYTES + len).freeze();
    Ok(Some(message.split_off(PREFIX_BYTES)))
}

fn check_head(status: http::StatusCode, headers: &HeaderMap) -> Result<(), Error> {
    if status != http::StatusCode::OK {
        return Err(Error::NotGrpc(format!("HTTP status {status}")));
    }
    // An error without a message comes with the first headers.
    if headers.contains_key("grpc-status") { check_status(Some(headers)) } else { Ok(()) }
}

fn check_status(trailers: Option<&HeaderMap>) -> Result<(), Error> {
    let text = |name: &str| trailers?.get(name)?.to_str().ok();
    match text("grpc-status").and_then(|code| code.parse().ok()) {
        Some(0) => Ok(()),
        Some(code) => {
            let message = percent_decoded(text("grpc-message").unwrap_or_default());
            Err(Error::Status { code, message })
        }
        None => Err(Error::NotGrpc("it ends without a status".into())),
    }
}

/// gRPC's way to send any text in a header.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = (byte == b'%').then(|| after.get(..2)).flatten();
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
