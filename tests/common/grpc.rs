//! Calls of gRPC over one HTTP/2 connection each, with every part of the request in the caller's
//! hand, so that it can be wrong.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::net::TcpStream;

use super::PATIENCE;

/// What came back, seen from HTTP.
#[derive(Debug, Default)]
pub struct Reply {
    pub http_status: u16,
    pub content_type: String,
    /// `grpc-status`; -1 when there was none.
    pub code: i32,
    /// `grpc-message`, per cent decoded.
    pub text: String,
    /// The bodies of the messages.
    pub messages: Vec<Bytes>,
    /// Set when the stream or the connection broke instead.
    pub broken: Option<String>,
}

/// One request of any shape.
pub struct Request<'a> {
    pub path: &'a str,
    pub method: &'a str,
    pub content_type: &'a str,
    pub headers: Vec<(&'a str, &'a str)>,
    pub body: Bytes,
    /// Whether the request ends; one that does not is half a request.
    pub ends: bool,
}

impl<'a> Request<'a> {
    /// A well-formed request around a message.
    pub fn new(path: &'a str, message: &[u8]) -> Request<'a> {
        Request::raw(path, frame(0, message))
    }

    /// A request with this body.
    pub fn raw(path: &'a str, body: Bytes) -> Request<'a> {
        let content_type = "application/grpc";
        Request {
            path,
            method: "POST",
            content_type,
            headers: vec![("te", "trailers")],
            body,
            ends: true,
        }
    }
}

/// A message with its five bytes in front.
pub fn frame(flag: u8, message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len() + 5);
    out.put_u8(flag);
    out.put_u32(u32::try_from(message.len()).expect("a test's message"));
    out.put_slice(message);
    out.freeze()
}

/// A runtime for one thread.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A call with a good message, and its decoded answer or code and text.
pub fn unary<A: Message + Default>(
    port: u16,
    path: &str,
    request: &impl Message,
) -> Result<A, (i32, String)> {
    let reply = call(port, &Request::new(path, &request.encode_to_vec()));
    match reply.code {
        0 => Ok(A::decode(reply.messages[0].clone()).expect("an answer of this kind")),
        code => Err((code, reply.text)),
    }
}

/// Sends one request on a connection of its own and waits for all of the answer.
pub fn call(port: u16, request: &Request<'_>) -> Reply {
    runtime().block_on(async {
        match tokio::time::timeout(PATIENCE, exchange(port, request)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => {
                Reply { code: -1, broken: Some(error.to_string()), ..Reply::default() }
            }
            Err(_) => panic!("{} {:?} got no answer in {PATIENCE:?}", request.path, request.body),
        }
    })
}

/// A connection ready for requests; the task that drives it runs beside.
pub async fn connect(port: u16) -> Result<h2::client::SendRequest<Bytes>, h2::Error> {
    let socket = TcpStream::connect(("127.0.0.1", port)).await.expect("the server accepts");
    socket.set_nodelay(true).expect("a socket has options");
    let (send, connection) = h2::client::Builder::new()
        .initial_window_size(16 << 20)
        .initial_connection_window_size(64 << 20)
        .handshake(socket)
        .await?;
    let mut connection = Box::pin(connection);
    // The runtime has one thread: the task stands beside the caller's and ends with it.
    tokio::spawn(async move {
        let _ = connection.as_mut().await;
    });
    send.ready().await
}

async fn exchange(port: u16, request: &Request<'_>) -> Result<Reply, h2::Error> {
    let mut send = connect(port).await?;
    let mut builder = http::Request::builder()
        .method(request.method)
        .uri(format!("http://127.0.0.1:{port}{}", request.path))
        .header("content-type", request.content_type);
    for (name, value) in &request.headers {
        builder = builder.header(*name, *value);
    }
    let head = builder.body(()).expect("a request that HTTP allows");
    let (response, mut body) = send.send_request(head, false)?;
    if !request.body.is_empty() || request.ends {
        body.send_data(request.body.clone(), request.ends)?;
    }
    let response = response.await?;
    let mut reply = Reply { http_status: response.status().as_u16(), code: -1, ..Reply::default() };
    reply.read_headers(response.headers());
    let mut body = response.into_body();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        let _ = body.flow_control().release_capacity(chunk.len());
        bytes.extend_from_slice(&chunk);
    }
    if let Some(trailers) = body.trailers().await? {
        reply.read_headers(&trailers);
    }
    let is_grpc = reply.content_type.starts_with("application/grpc");
    while is_grpc && bytes.len() >= 5 {
        let length = u32::from_be_bytes(bytes[1..5].try_into().expect("four bytes")) as usize;
        let _ = bytes.split_to(5);
        reply.messages.push(bytes.split_to(length).freeze());
    }
    Ok(reply)
}

impl Reply {
    fn read_headers(&mut self, headers: &http::HeaderMap) {
        let read = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
        if let Some(kind) = read("content-type") {
            self.content_type = kind.into_owned();
        }
        if let Some(code) = read("grpc-status") {
            self.code = code.parse().expect("grpc-status is a number");
        }
        if let Some(text) = read("grpc-message") {
            self.text = percent_decoded(&text);
        }
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let hex = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
            let hex = std::str::from_utf8(&hex).expect("two digits");
            out.push(u8::from_str_radix(hex, 16).expect("two digits"));
        } else {
            out.push(byte);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
