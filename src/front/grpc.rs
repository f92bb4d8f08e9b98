//! gRPC over HTTP/2: which method, its metadata, messages in their frames, the status at the end.
//! Texts and codes are those of grpc-go, which etcd uses. It knows no service.

use std::convert::Infallible;
use std::future::ready;
use std::rc::Rc;

use bytes::{Buf, Bytes, BytesMut};
use cored_proto::{Kind, METHODS};
use futures_lite::future::or;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method as Verb, Request, Response, StatusCode};
use http_body::Body as HttpBody;

pub use super::body::Chunk;
use super::body::{Body, FRAME_HEAD_BYTES};
use super::budget::{Budget, Held};
use super::deadline;
use super::relay::{Frames, Relay};
use super::route::Answer;
use super::{Call, Calls, Front};
use crate::api::Caller;
use crate::api::status::{Code, Status};
use crate::api::stream::{self, Responses};

const GRPC: &str = "application/grpc";

/// Names that are made once: the clone of one costs nothing, a look-up by text an allocation.
static STATUS: HeaderName = HeaderName::from_static("grpc-status");
static MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Whether a content type says gRPC: the plain type, or one with a subtype or parameters.
pub(super) fn is_grpc(content_type: &[u8]) -> bool {
    match content_type.strip_prefix(GRPC.as_bytes()) {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

/// Serves a call. What can be decided at once is, so that the future of the usual call holds little
/// and moves cheaply.
pub(super) fn call<C, B>(front: &Rc<Front<C>>, request: Request<B>) -> Answer
where
    C: Calls,
    B: HttpBody<Data = Bytes> + Unpin + 'static,
{
    let at_once = |response| -> Answer { Box::pin(ready(Ok(response))) };
    if request.method() != Verb::POST {
        let text = format!(
            "Received a HEADERS frame with :method \"{}\" which should be POST",
            request.method()
        );
        let status = Status { code: Code::Internal, message: text.into() };
        return at_once(refused(StatusCode::METHOD_NOT_ALLOWED, &status));
    }
    let headers = request.headers();
    let subtype = subtype(headers);
    let Some(&index) = front.methods.get(request.uri().path()) else {
        return at_once(failed(&unknown(request.uri().path()), subtype));
    };
    let (caller, encoding) = metadata(headers, false);
    if let Some(encoding) = encoding {
        let text = format!("grpc: Decompressor is not installed for grpc-encoding {encoding:?}");
        let status = Status { code: Code::Unimplemented, message: text.into() };
        return at_once(failed(&status, subtype));
    }
    let timeout = match deadline::of(headers) {
        Ok(timeout) => timeout,
        Err(status) => return at_once(refused(StatusCode::BAD_REQUEST, &status)),
    };
    let call = Call::begin(&front.config, index);
    let bytes_max = front.config.limits.message_bytes_max;
    let messages = Messages::new(request.into_body(), bytes_max, &front.partial);
    let calls = Rc::clone(&front.calls);
    if METHODS[index].kind == Kind::Unary {
        let Some(timeout) = timeout else {
            return Box::pin(unary(calls, call, caller, messages, subtype));
        };
        // When the time is up the call is dropped, as when its client has gone.
        let due = front.clock.sleep(timeout);
        let late = failed(&deadline::EXCEEDED, subtype.clone());
        let answer = unary(calls, call, caller, messages, subtype);
        return Box::pin(or(answer, async move {
            due.await;
            Ok(late)
        }));
    }
    let (responses, output) = stream::pair();
    let (input, requests) = stream::pair();
    let handler = calls.stream(&METHODS[index], caller, requests, responses);
    let pump = pump(messages, input);
    let relay =
        Relay::new(call, Box::pin(handler), Box::pin(pump), output, Box::new(Frames), &front.stop);
    at_once(opened(Body::Stream(Box::new(relay)), subtype))
}

#[allow(clippy::manual_async_fn, reason = "an `async fn` would hold each argument twice")]
fn unary<C, B>(
    calls: Rc<C>,
    mut call: Call,
    caller: Caller,
    mut messages: Messages<B>,
    subtype: Option<HeaderValue>,
) -> impl Future<Output = Result<Response<Body>, Infallible>>
where
    C: Calls,
    B: HttpBody<Data = Bytes> + Unpin + 'static,
{
    async move {
        let result = match messages.next().await {
            Ok(Some(message)) => {
                call.message_received();
                calls.unary(&METHODS[call.method], caller, message).await
            }
            Ok(None) => Err(Status::fixed(Code::Unknown, "EOF")),
            Err(status) => Err(status),
        };
        // The body is held until here: dropped before its end it would reset the stream.
        drop(messages);
        Ok(match result {
            Ok(message) => {
                call.ends(Code::Ok);
                call.message_sent();
                opened(Body::Message(message), subtype)
            }
            Err(status) => {
                call.ends(status.code);
                failed(&status, subtype)
            }
        })
    }
}

/// Feeds a handler what the client sends, as fast as it takes it.
async fn pump<B>(mut messages: Messages<B>, input: Responses)
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    loop {
        match messages.next().await {
            Ok(Some(message)) => input.push(message),
            Ok(None) => return input.end(Ok(())),
            Err(status) => return input.end(Err(status)),
        }
        if !input.ready().await {
            return;
        }
    }
}

/// What the metadata tell about the caller; and how the request is compressed, if it is. One walk
/// over the few headers there are costs less than a look-up for each name.
pub(super) fn metadata(headers: &HeaderMap, json: bool) -> (Caller, Option<String>) {
    let mut caller = Caller { json, ..Caller::default() };
    let mut authorization = None;
    let mut encoding = None;
    for (name, value) in headers {
        let Ok(text) = value.to_str() else { continue };
        let place = match name.as_str() {
            "token" => &mut caller.token,
            "authorization" => &mut authorization,
            "client-api-version" => &mut caller.client_api_version,
            "grpc-encoding" if text != "identity" => &mut encoding,
            "hasleader" => {
                caller.requires_leader = text == "true";
                continue;
            }
            _ => continue,
        };
        // Of a name that stands there twice the first counts.
        place.get_or_insert_with(|| text.to_owned());
    }
    if let Some(token) = caller.token.take().or(authorization) {
        let bare = token.strip_prefix("Bearer ").map(str::to_owned);
        caller.token = Some(bare.unwrap_or(token));
    }
    (caller, encoding)
}

/// grpc-go's answer to a path that names nothing.
fn unknown(path: &str) -> Status {
    let name = path.strip_prefix('/').unwrap_or(path);
    let text = match name.rsplit_once('/') {
        None => format!("malformed method name: {path:?}"),
        Some((service, method)) if METHODS.iter().any(|known| known.service == service) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
    };
    Status { code: Code::Unimplemented, message: text.into() }
}

/// What the response's content type must be, when it is not the plain one.
fn subtype(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(CONTENT_TYPE)?;
    (value.as_bytes().get(GRPC.len()) == Some(&b'+')).then(|| value.clone())
}

fn opened(body: Body, subtype: Option<HeaderValue>) -> Response<Body> {
    let mut response = Response::new(body);
    // A map that is made for one header is an eighth of what the first insertion would make.
    let mut headers = HeaderMap::with_capacity(1);
    headers.insert(CONTENT_TYPE, subtype.unwrap_or(HeaderValue::from_static(GRPC)));
    *response.headers_mut() = headers;
    response
}

/// A call that failed before its first message: the status stands in the headers.
fn failed(status: &Status, subtype: Option<HeaderValue>) -> Response<Body> {
    let mut response = opened(Body::Nothing, subtype);
    status_headers(Some(status), response.headers_mut());
    response
}

fn refused(http: StatusCode, status: &Status) -> Response<Body> {
    let mut response = failed(status, None);
    *response.status_mut() = http;
    response
}

/// The answer to a request on HTTP/2 that is neither gRPC nor for one of our pages.
pub(super) fn wrong_content_type(headers: &HeaderMap) -> Response<Body> {
    let value = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let text = format!("invalid gRPC request content-type {:?}", String::from_utf8_lossy(value));
    let status = Status { code: Code::InvalidArgument, message: text.into() };
    refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, &status)
}

/// Writes a status as gRPC's headers or trailers; none is a success.
pub(super) fn status_headers(status: Option<&Status>, headers: &mut HeaderMap) {
    const CODES: [&str; 17] = [
        "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16",
    ];
    let code = status.map_or(Code::Ok, |status| status.code) as usize;
    headers.insert(STATUS.clone(), HeaderValue::from_static(CODES[code]));
    if let Some(status) = status.filter(|status| !status.message.is_empty()) {
        let text = HeaderValue::try_from(percent_encoded(&status.message));
        headers.insert(MESSAGE.clone(), text.expect("only printable ASCII is left"));
    }
}

/// A status text as gRPC wants it: everything but printable ASCII, and the per cent sign itself,
/// escaped.
fn percent_encoded(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

/// The messages of a request body, whole, wherever the body was cut. The usual request, one message
/// in one piece, is a slice of the piece.
pub struct Messages<B> {
    body: B,
    len_max: usize,
    /// The piece that came last, as far as it is not consumed.
    piece: Bytes,
    /// The beginning of a message that came in several pieces, its frame's head included.
    partial: BytesMut,
    /// What `partial` holds.
    held: Held,
}

impl<B> Messages<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    /// The messages of `body`, each at most `len_max` bytes long.
    pub fn new(body: B, len_max: usize, budget: &Budget) -> Messages<B> {
        let (piece, partial) = (Bytes::new(), BytesMut::new());
        Messages { body, len_max, piece, partial, held: budget.share() }
    }

    /// The next message; `None` after the last.
    ///
    /// # Errors
    /// grpc-go's, when the frames are wrong, too large or end early.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            self.keep_rest()?;
            match self.piece().await? {
                Some(piece) => self.piece = piece,
                None if self.partial.is_empty() => return Ok(None),
                None => return Err(Status::fixed(Code::Unknown, "unexpected EOF")),
            }
        }
    }

    /// A message, if all of it is here.
    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        if self.partial.is_empty() {
            let Some(head) = self.piece.first_chunk::<FRAME_HEAD_BYTES>() else {
                return Ok(None);
            };
            let len = self.check(*head)?;
            if self.piece.len() < FRAME_HEAD_BYTES + len {
                return Ok(None);
            }
            self.piece.advance(FRAME_HEAD_BYTES);
            return Ok(Some(self.piece.split_to(len)));
        }
        self.fill(FRAME_HEAD_BYTES)?;
        let Some(head) = self.partial.first_chunk::<FRAME_HEAD_BYTES>() else {
            return Ok(None);
        };
        let whole = FRAME_HEAD_BYTES + self.check(*head)?;
        self.fill(whole)?;
        if self.partial.len() < whole {
            return Ok(None);
        }
        self.held.release();
        let mut frame = std::mem::take(&mut self.partial).freeze();
        frame.advance(FRAME_HEAD_BYTES);
        Ok(Some(frame))
    }

    /// The length of the message behind a frame's head.
    fn check(&self, head: [u8; FRAME_HEAD_BYTES]) -> Result<usize, Status> {
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        // grpc-go reads the message before it looks at the flag.
        if len > self.len_max {
            let max = self.len_max;
            let text = format!("grpc: received message larger than max ({len} vs. {max})");
            return Err(Status { code: Code::ResourceExhausted, message: text.into() });
        }
        match head[0] {
            0 => Ok(len),
            1 => Err(Status::fixed(
                Code::Internal,
                "grpc: compressed flag set with identity or empty encoding",
            )),
            flag => {
                let text = format!("grpc: received unexpected payload format {flag}");
                Err(Status { code: Code::Internal, message: text.into() })
            }
        }
    }

    /// Moves bytes of the piece to the partial message until it has `len` bytes.
    fn fill(&mut self, len: usize) -> Result<(), Status> {
        let count = len.saturating_sub(self.partial.len()).min(self.piece.len());
        self.held.add(count)?;
        self.partial.extend_from_slice(&self.piece.split_to(count));
        Ok(())
    }

    fn keep_rest(&mut self) -> Result<(), Status> {
        self.fill(self.partial.len() + self.piece.len())
    }

    /// The next piece of the body that holds anything.
    async fn piece(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            let body = &mut self.body;
            let frame =
                std::future::poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx)).await;
            match frame.map(|frame| frame.map(http_body::Frame::into_data)) {
                None => return Ok(None),
                // Trailers of a client mean nothing.
                Some(Ok(Err(_))) => {}
                Some(Ok(Ok(piece))) if piece.is_empty() => {}
                Some(Ok(Ok(piece))) => return Ok(Some(piece)),
                Some(Err(_)) => return Err(Status::fixed(Code::Canceled, "context canceled")),
            }
        }
    }
}
