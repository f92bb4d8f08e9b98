//! gRPC calls over HTTP/2 connections that many callers share: one request with one reply, or a stream
//! of both. It reconnects when a connection breaks. It knows no key, no clock and no statistics.
//!
//! Everything here lives on one thread; a connection is shared by `Rc`.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Uri};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::framing::{FramingError, Messages};

/// The calls that load is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rpc {
    /// `KV.Range`
    Range,
    /// `KV.Put`
    Put,
    /// `KV.DeleteRange`
    DeleteRange,
    /// `KV.Txn`
    Txn,
    /// `Watch.Watch`
    Watch,
    /// `Lease.LeaseGrant`
    LeaseGrant,
    /// `Lease.LeaseKeepAlive`
    LeaseKeepAlive,
    /// `Lease.LeaseRevoke`
    LeaseRevoke,
}

impl Rpc {
    const ALL: [Rpc; 8] = [
        Rpc::Range,
        Rpc::Put,
        Rpc::DeleteRange,
        Rpc::Txn,
        Rpc::Watch,
        Rpc::LeaseGrant,
        Rpc::LeaseKeepAlive,
        Rpc::LeaseRevoke,
    ];

    /// The path of the call in HTTP/2.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Rpc::Range => "/etcdserverpb.KV/Range",
            Rpc::Put => "/etcdserverpb.KV/Put",
            Rpc::DeleteRange => "/etcdserverpb.KV/DeleteRange",
            Rpc::Txn => "/etcdserverpb.KV/Txn",
            Rpc::Watch => "/etcdserverpb.Watch/Watch",
            Rpc::LeaseGrant => "/etcdserverpb.Lease/LeaseGrant",
            Rpc::LeaseKeepAlive => "/etcdserverpb.Lease/LeaseKeepAlive",
            Rpc::LeaseRevoke => "/etcdserverpb.Lease/LeaseRevoke",
        }
    }
}

/// Why a call has no reply. Only [`CallError::Status`] says what the server did; after any other, a write
/// may or may not have happened.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server answered with an error of its own.
    #[error("{message} (code {code})")]
    Status {
        /// gRPC's number.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// No connection.
    #[error("connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connection or the stream broke.
    #[error("http/2: {0}")]
    Http2(#[from] h2::Error),
    /// The answer is not gRPC.
    #[error("not a gRPC answer: {0}")]
    NotGrpc(String),
    /// Bytes that are not messages.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// A message that is not what the method returns.
    #[error("reply: {0}")]
    Decode(#[from] prost::DecodeError),
}

/// How much a stream and a connection may receive before we say that we have read it. Large, so that
/// flow control never shapes a measurement.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 256 << 20;
/// Replies smaller than this are never announced as read: the stream is gone first, and takes its
/// share of the connection's window with it.
const RELEASE_ABOVE_BYTES: usize = 64 << 10;
/// Between two attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// One HTTP/2 connection to one endpoint, made when first needed and again when it broke.
#[derive(Debug)]
pub struct Connection {
    address: String,
    uris: Vec<Uri>,
    headers: HeaderMap,
    streams_max: usize,
    sender: RefCell<Option<SendRequest<Bytes>>>,
    /// Counts connections, so that whoever failed on an old one does not throw away the new one.
    generation: Cell<u64>,
    connecting: tokio::sync::Mutex<()>,
}

impl Connection {
    /// A connection to `endpoint` (`host:port`, perhaps behind `http://`) for at most `streams_max` calls
    /// at a time. Nothing is sent yet.
    ///
    /// # Errors
    /// A sentence when the endpoint is not plain HTTP or has no port.
    pub fn new(endpoint: &str, streams_max: usize) -> Result<Rc<Connection>, String> {
        if endpoint.starts_with("https://") {
            return Err(format!("{endpoint}: TLS is not spoken here, use the plain port"));
        }
        let address = endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned();
        if !address.contains(':') {
            return Err(format!("{endpoint}: an endpoint is host:port"));
        }
        let uris = Rpc::ALL
            .iter()
            .map(|rpc| format!("http://{address}{}", rpc.path()).parse())
            .collect::<Result<_, _>>()
            .map_err(|error| format!("{endpoint}: {error}"))?;
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        headers.insert("user-agent", HeaderValue::from_static("cored-loadgen"));
        Ok(Rc::new(Connection {
            address,
            uris,
            headers,
            streams_max: streams_max.max(1),
            sender: RefCell::new(None),
            generation: Cell::new(0),
            connecting: tokio::sync::Mutex::new(()),
        }))
    }

    /// Connects now, so that the first call does not have to.
    ///
    /// # Errors
    /// When there is no server.
    pub async fn establish(&self) -> Result<(), CallError> {
        self.sender().await.map(drop)
    }

    fn request(&self, rpc: Rpc) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = self.uris[rpc as usize].clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    async fn sender(&self) -> Result<(SendRequest<Bytes>, u64), CallError> {
        if let Some(sender) = self.sender.borrow().clone() {
            return Ok((sender, self.generation.get()));
        }
        let _only_one = self.connecting.lock().await;
        if let Some(sender) = self.sender.borrow().clone() {
            return Ok((sender, self.generation.get()));
        }
        match self.connect().await {
            Ok(sender) => {
                self.generation.set(self.generation.get() + 1);
                *self.sender.borrow_mut() = Some(sender.clone());
                Ok((sender, self.generation.get()))
            }
            Err(error) => {
                // Still holding the lock: a dead server costs one attempt a pause, not one a client.
                tokio::time::sleep(RECONNECT_PAUSE).await;
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Bytes>, CallError> {
        let connect_error = |source| CallError::Connect { address: self.address.clone(), source };
        let socket = TcpStream::connect(&self.address).await.map_err(connect_error)?;
        socket.set_nodelay(true).map_err(connect_error)?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_max_send_streams(self.streams_max)
            .max_send_buffer_size(16 << 20)
            .enable_push(false)
            .handshake(Coalesced(socket))
            .await?;
        // Its error reaches every call that was open; there is nobody else to tell.
        tokio::task::spawn_local(async move { drop(connection.await) });
        Ok(sender)
    }

    fn forget(&self, generation: u64) {
        if self.generation.get() == generation {
            *self.sender.borrow_mut() = None;
        }
    }
}

/// One client's door to a shared connection.
#[derive(Debug)]
pub struct Caller {
    connection: Rc<Connection>,
    sender: Option<(SendRequest<Bytes>, u64)>,
}

impl Caller {
    /// A caller on `connection`.
    #[must_use]
    pub fn new(connection: Rc<Connection>) -> Caller {
        Caller { connection, sender: None }
    }

    /// Sends one framed message and waits for the reply message, without its frame.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn unary(&mut self, rpc: Rpc, framed: Bytes) -> Result<Bytes, CallError> {
        let (response, mut send) = self.start(rpc).await?;
        let outcome = async {
            send.send_data(framed, true)?;
            read_reply(response).await
        }
        .await;
        self.judge(outcome)
    }

    /// Opens a call whose messages flow both ways.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn open(&mut self, rpc: Rpc) -> Result<Stream, CallError> {
        let (response, send) = self.start(rpc).await?;
        Ok(Stream { send, response: Some(response), body: None, messages: Messages::default() })
    }

    async fn start(&mut self, rpc: Rpc) -> Result<(ResponseFuture, SendStream<Bytes>), CallError> {
        if self.sender.is_none() {
            self.sender = Some(self.connection.sender().await?);
        }
        let request = self.connection.request(rpc);
        let (sender, _) = self.sender.as_mut().expect("it was just put there");
        let started = match poll_fn(|cx| sender.poll_ready(cx)).await {
            Ok(()) => sender.send_request(request, false),
            Err(error) => Err(error),
        };
        self.judge(started.map_err(CallError::from))
    }

    /// Lets go of a connection that an error shows to be broken.
    fn judge<T>(&mut self, outcome: Result<T, CallError>) -> Result<T, CallError> {
        if let Err(CallError::Http2(error)) = &outcome
            && (error.is_io() || error.is_go_away() || !error.is_reset())
            && let Some((_, generation)) = self.sender.take()
        {
            self.connection.forget(generation);
        }
        outcome
    }
}

/// A call in which both sides send as they like.
#[derive(Debug)]
pub struct Stream {
    send: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    messages: Messages,
}

impl Stream {
    /// Sends one framed message.
    ///
    /// # Errors
    /// When the stream is closed.
    pub fn send(&mut self, framed: Bytes) -> Result<(), CallError> {
        Ok(self.send.send_data(framed, false)?)
    }

    /// A message that has already arrived, if there is one.
    ///
    /// # Errors
    /// When the bytes are not messages.
    pub fn arrived(&mut self) -> Result<Option<Bytes>, CallError> {
        Ok(self.messages.take()?)
    }

    /// The next message, or `None` when the server has ended the call well.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        loop {
            if let Some(message) = self.messages.take()? {
                return Ok(Some(message));
            }
            if let Some(response) = &mut self.response {
                // Kept until it has answered: a caller may stop waiting and come back.
                let response = response.await?;
                check_head(response.status(), response.headers())?;
                self.body = Some(response.into_body());
                self.response = None;
            }
            let Some(body) = &mut self.body else { return Ok(None) };
            match body.data().await {
                Some(chunk) => {
                    let chunk = chunk?;
                    body.flow_control().release_capacity(chunk.len())?;
                    self.messages.push(chunk);
                }
                None => {
                    let trailers = body.trailers().await?;
                    self.body = None;
                    check_status(trailers.as_ref())?;
                    self.messages.finish()?;
                }
            }
        }
    }
}

async fn read_reply(response: ResponseFuture) -> Result<Bytes, CallError> {
    let response = response.await?;
    check_head(response.status(), response.headers())?;
    let mut body = response.into_body();
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    let mut unread_bytes = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        unread_bytes += chunk.len();
        if unread_bytes > RELEASE_ABOVE_BYTES {
            body.flow_control().release_capacity(unread_bytes)?;
            unread_bytes = 0;
        }
        if first.is_empty() {
            first = chunk;
        } else {
            if joined.is_empty() {
                joined.extend_from_slice(&first);
            }
            joined.extend_from_slice(&chunk);
        }
    }
    check_status(body.trailers().await?.as_ref())?;
    let mut messages = Messages::default();
    messages.push(if joined.is_empty() { first } else { joined.freeze() });
    match messages.take()? {
        Some(message) => Ok(message),
        None => Err(CallError::Framing(FramingError::Truncated)),
    }
}

fn check_head(status: http::StatusCode, headers: &HeaderMap) -> Result<(), CallError> {
    if status != http::StatusCode::OK {
        return Err(CallError::NotGrpc(format!("HTTP status {status}")));
    }
    // An error without a reply comes with the first headers.
    if headers.contains_key("grpc-status") { check_status(Some(headers)) } else { Ok(()) }
}

fn check_status(trailers: Option<&HeaderMap>) -> Result<(), CallError> {
    let Some(trailers) = trailers else {
        return Err(CallError::NotGrpc("no trailers".to_owned()));
    };
    match trailers.get("grpc-status").map(HeaderValue::as_bytes) {
        Some(b"0") => Ok(()),
        Some(code) => {
            let code = std::str::from_utf8(code).ok().and_then(|code| code.parse().ok());
            let message = trailers.get("grpc-message").map_or(&b""[..], HeaderValue::as_bytes);
            Err(CallError::Status {
                code: code.unwrap_or(2),
                message: String::from_utf8_lossy(message).into_owned(),
            })
        }
        None => Err(CallError::NotGrpc("no grpc-status".to_owned())),
    }
}

/// A socket that says it cannot write several buffers at once. h2 then copies bodies of up to 1 KiB behind
/// their headers and writes many requests in one call, where it would write each body of 256 bytes or more
/// by itself.
struct Coalesced(TcpStream);

impl AsyncRead for Coalesced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Coalesced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
