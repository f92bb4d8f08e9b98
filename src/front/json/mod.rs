//! The JSON gateway: `POST /v3/…` for each method, requests and responses as JSON, streams as
//! lines. It behaves as etcd's gateway (grpc-gateway v2 with etcd's settings) and knows no method:
//! the tables say which path is which, and how messages look. Websockets are not served.

mod read;
mod routes;
mod scan;
mod token;
mod write;

#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;

use bytes::{Buf, Bytes, BytesMut};
use cored_proto::shape::{self, Shape};
use cored_proto::{Kind, METHODS};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Method as Verb, Request, Response, StatusCode};
use http_body::Body as HttpBody;

use super::body::Body;
use super::budget::Held;
use super::relay::{First, Relay, Writing};
use super::{Call, Calls, Front, grpc};
use crate::api::status::{Code, Status};
use crate::api::stream::{self, Responses};
use scan::{Found, Scanner};

pub(super) use routes::table;

/// JSON of a request may be this many times larger than the message it stands for: base64 takes a
/// third more, escapes and white space rarely double it.
const JSON_PER_MESSAGE: usize = 2;

/// Answers a request whose path begins with `/v3/`; `path` is what follows.
pub(super) async fn answer<C, B>(
    front: &Rc<Front<C>>,
    path: &str,
    parts: Parts,
    body: B,
) -> Response<Body>
where
    C: Calls,
    B: HttpBody<Data = Bytes> + Unpin + 'static,
{
    let Some(&index) = front.routes.get(path) else {
        return failed(&Status::fixed(Code::NotFound, "Not Found"));
    };
    if parts.method != Verb::POST {
        return failed(&Status::fixed(Code::Unimplemented, "Method Not Allowed"));
    }
    let method = &METHODS[index];
    let call = Call::begin(&front.config, index);
    let input = shape::find(method.input).expect("messages of the API have shapes");
    let output = shape::find(method.output).expect("messages of the API have shapes");
    let values = Values::new(body, front);
    let request = Request::from_parts(parts, ());
    match method.kind {
        Kind::Unary => unary(front, call, request, values, (input, output)).await,
        _ => streaming(front, call, request, values, (input, output)).await,
    }
}

type Shapes = (&'static Shape, &'static Shape);

async fn unary<C, B>(
    front: &Rc<Front<C>>,
    mut call: Call,
    request: Request<()>,
    mut values: Values<B>,
    (input, output): Shapes,
) -> Response<Body>
where
    C: Calls,
    B: HttpBody<Data = Bytes> + Unpin + 'static,
{
    let result = async {
        let message = match values.next().await? {
            Some(value) => encoded(&value, input, values.message_bytes_max)?,
            // No body stands for an empty message.
            None => Bytes::new(),
        };
        call.message_received();
        let (caller, _) = grpc::metadata(request.headers(), true);
        let method = &METHODS[call.method];
        let answer = Rc::clone(&front.calls).unary(method, caller, message).await?;
        let mut json = BytesMut::with_capacity(2 * answer.len() + 256);
        write::message(&answer, output, &mut json).map_err(malformed)?;
        Ok::<_, Status>(json.freeze())
    };
    match result.await {
        Ok(json) => {
            call.ends(Code::Ok);
            call.message_sent();
            succeeded(Body::Whole(json))
        }
        Err(status) => {
            call.ends(status.code);
            failed(&status)
        }
    }
}

async fn streaming<C, B>(
    front: &Rc<Front<C>>,
    call: Call,
    request: Request<()>,
    values: Values<B>,
    (input, output): Shapes,
) -> Response<Body>
where
    C: Calls,
    B: HttpBody<Data = Bytes> + Unpin + 'static,
{
    let method = &METHODS[call.method];
    let (responses, answers) = stream::pair();
    let (sender, requests) = stream::pair();
    let (caller, _) = grpc::metadata(request.headers(), true);
    let handler = Rc::clone(&front.calls).stream(method, caller, requests, responses);
    let pump = pump(values, input, sender);
    let lines = Box::new(Lines(output));
    let mut relay =
        Relay::new(call, Box::pin(handler), Box::pin(pump), answers, lines, &front.stop);
    // The status line waits for the first word: a stream that fails at once fails as a request.
    match poll_fn(|cx| relay.poll_first(cx)).await {
        First::Message => succeeded(Body::Stream(Box::new(relay))),
        First::Nothing => Response::new(Body::Nothing),
        First::Failed(status) => {
            let mut line = BytesMut::new();
            error_line(&status, &mut line);
            let mut response = json(Body::Whole(line.freeze()));
            *response.status_mut() = http_status(status.code);
            response
        }
    }
}

/// Feeds a handler the client's messages. What is no message ends them, with the reason.
async fn pump<B>(mut values: Values<B>, input: &'static Shape, sender: Responses)
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    loop {
        let message = match values.next().await {
            Ok(None) => return sender.end(Ok(())),
            Ok(Some(value)) => encoded(&value, input, values.message_bytes_max),
            Err(status) => Err(status),
        };
        match message {
            Ok(message) => sender.push(message),
            Err(status) => {
                let message = format!("Failed to decode request: {}", status.message).into();
                return sender.end(Err(Status { code: status.code, message }));
            }
        }
        if !sender.ready().await {
            return;
        }
    }
}

fn encoded(value: &[u8], shape: &'static Shape, bytes_max: usize) -> Result<Bytes, Status> {
    let message = read::message(value, shape).map_err(invalid)?;
    let len = message.len();
    if len > bytes_max {
        return Err(too_large(len, bytes_max));
    }
    Ok(message.into())
}

fn invalid(text: String) -> Status {
    Status { code: Code::InvalidArgument, message: text.into() }
}

fn too_large(len: usize, bytes_max: usize) -> Status {
    let text = format!("grpc: received message larger than max ({len} vs. {bytes_max})");
    Status { code: Code::ResourceExhausted, message: text.into() }
}

fn malformed(_: write::Malformed) -> Status {
    Status::fixed(Code::Internal, "failed to marshal the response")
}

/// The JSON values of a request body, one after another.
struct Values<B> {
    body: B,
    /// What has come and is not consumed; the scanner has seen `scanned` bytes of it.
    have: BytesMut,
    scanned: usize,
    scanner: Scanner,
    held: Held,
    message_bytes_max: usize,
}

impl<B> Values<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    fn new<C>(body: B, front: &Front<C>) -> Values<B> {
        Values {
            body,
            have: BytesMut::new(),
            scanned: 0,
            scanner: Scanner::default(),
            held: front.partial.share(),
            message_bytes_max: front.config.limits.message_bytes_max,
        }
    }

    /// The next value, without the white space around it; `None` after the last.
    async fn next(&mut self) -> Result<Option<BytesMut>, Status> {
        loop {
            if let Some(value) = self.scan()? {
                return Ok(Some(value));
            }
            let bytes_max = JSON_PER_MESSAGE * self.message_bytes_max;
            if self.have.len() > bytes_max {
                return Err(too_large(self.have.len(), self.message_bytes_max));
            }
            if let Some(piece) = self.piece().await? {
                self.held.add(piece.len())?;
                self.have.extend_from_slice(&piece);
                continue;
            }
            if self.scanner.is_number() {
                self.scanner = Scanner::default();
                return Ok(Some(self.cut(self.scanned)));
            }
            if self.scanner.is_between() {
                return Ok(None);
            }
            return Err(invalid("unexpected EOF".into()));
        }
    }

    fn scan(&mut self) -> Result<Option<BytesMut>, Status> {
        while let Some(&byte) = self.have.get(self.scanned) {
            match self.scanner.take(byte).map_err(invalid)? {
                Found::More => self.scanned += 1,
                Found::End => return Ok(Some(self.cut(self.scanned + 1))),
                Found::EndBefore => return Ok(Some(self.cut(self.scanned))),
            }
        }
        if self.scanner.is_between() {
            // White space between values need not be kept.
            self.cut(self.scanned);
        }
        Ok(None)
    }

    fn cut(&mut self, at: usize) -> BytesMut {
        let mut value = self.have.split_to(at);
        self.scanned = 0;
        if self.have.is_empty() {
            self.held.release();
        }
        let space = value.iter().position(|byte| !byte.is_ascii_whitespace());
        value.advance(space.unwrap_or(value.len()));
        value
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            let body = &mut self.body;
            let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
            match frame.map(|frame| frame.map(http_body::Frame::into_data)) {
                None => return Ok(None),
                Some(Ok(Ok(piece))) if !piece.is_empty() => return Ok(Some(piece)),
                Some(Ok(_)) => {}
                Some(Err(_)) => return Err(invalid("unexpected EOF".into())),
            }
        }
    }
}

/// Streams as lines of JSON.
struct Lines(&'static Shape);

impl Writing for Lines {
    fn message(&self, message: Bytes, out: &mut BytesMut) {
        let begun = out.len();
        out.extend_from_slice(b"{\"result\":");
        if write::message(&message, self.0, out).is_err() {
            out.truncate(begun);
            error_line(&malformed(write::Malformed), out);
            return;
        }
        out.extend_from_slice(b"}\n");
    }

    fn end(&self, status: Option<&Status>, out: &mut BytesMut) -> Option<HeaderMap> {
        if let Some(status) = status {
            error_line(status, out);
        }
        None
    }

    fn framed(&self) -> bool {
        false
    }
}

fn error_line(status: &Status, out: &mut BytesMut) {
    out.extend_from_slice(b"{\"error\":");
    error_object(status, out);
    out.extend_from_slice(b"}\n");
}

fn error_object(status: &Status, out: &mut BytesMut) {
    write::display(format_args!("{{\"code\":{},\"message\":", status.code as u8), out);
    write::string(&status.message, out);
    out.extend_from_slice(b"}");
}

fn json(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let value = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, value);
    response
}

fn succeeded(body: Body) -> Response<Body> {
    let mut response = json(body);
    response.headers_mut().insert(
        HeaderName::from_static("grpc-metadata-content-type"),
        HeaderValue::from_static("application/grpc"),
    );
    response
}

fn failed(status: &Status) -> Response<Body> {
    let mut out = BytesMut::with_capacity(status.message.len() + 64);
    error_object(status, &mut out);
    let mut response = json(Body::Whole(out.freeze()));
    *response.status_mut() = http_status(status.code);
    if status.code == Code::Unauthenticated
        && let Ok(value) = HeaderValue::from_str(&status.message)
    {
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    response
}

/// grpc-gateway's translation of codes.
fn http_status(code: Code) -> StatusCode {
    let status = match code {
        Code::Ok => 200,
        Code::Canceled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::DeadlineExceeded => 504,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::PermissionDenied => 403,
        Code::Unauthenticated => 401,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    };
    StatusCode::from_u16(status).expect("statuses of the table")
}
