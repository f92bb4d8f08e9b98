//! HTTP/1.1 over a plain socket, just enough for the JSON gateway: one connection, one request
//! after the other, bodies by length or in chunks, streams read line by line.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::PATIENCE;

/// A connected socket whose reads and writes end some time.
pub fn socket(port: u16) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", port)).expect("the server accepts");
    prepare(&socket).expect("a socket has options");
    socket
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))
}

/// Bytes as JSON carries them.
pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// Text behind JSON's bytes.
pub fn text(value: &Value) -> String {
    let bytes = STANDARD.decode(value.as_str().unwrap_or_default()).expect("base64");
    String::from_utf8(bytes).expect("tests write text")
}

/// A number as the gateway writes it: a string, absent when zero.
pub fn number(value: &Value) -> i64 {
    value.as_str().unwrap_or("0").parse().expect("a number")
}

/// What came back.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// A header's value, empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {:?}", self.text()))
    }
}

/// One connection.
pub struct Http {
    pub stream: BufReader<TcpStream>,
}

impl Http {
    /// Connects; panics when nobody listens.
    pub fn connect(port: u16) -> Http {
        Http { stream: BufReader::new(socket(port)) }
    }

    /// Connects, or tells why not.
    pub fn try_connect(port: u16) -> io::Result<Http> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        prepare(&socket)?;
        Ok(Http { stream: BufReader::new(socket) })
    }

    /// Sends a request and reads the whole response.
    pub fn request(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Response> {
        self.send(method, path, body)?;
        self.response()
    }

    /// Sends a request without waiting.
    pub fn send(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<()> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.stream.get_mut().write_all(&[head.as_bytes(), body].concat())
    }

    /// Reads a response to its end.
    pub fn response(&mut self) -> io::Result<Response> {
        let (status, headers) = self.head()?;
        let mut response = Response { status, headers, body: Vec::new() };
        if response.header("transfer-encoding") == "chunked" {
            while let Some(chunk) = self.chunk()? {
                response.body.extend(chunk);
            }
        } else if let Ok(length) = response.header("content-length").parse() {
            response.body = vec![0; length];
            self.stream.read_exact(&mut response.body)?;
        }
        Ok(response)
    }

    /// Reads status and headers; what follows is the body.
    pub fn head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status =
            status.ok_or_else(|| io::Error::other(format!("no HTTP response: {first:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                return Ok((status, headers));
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Reads one chunk of a chunked body; `None` at its end.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; length + 2];
        self.stream.read_exact(&mut chunk)?;
        chunk.truncate(length);
        Ok((length > 0).then_some(chunk))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// A call of the gateway: status and body.
    pub fn call(&mut self, path: &str, body: &Value) -> io::Result<(u16, Value)> {
        let response = self.request("POST", path, body.to_string().as_bytes())?;
        Ok((response.status, response.json()))
    }

    /// Writes a key: the revision, or the answer when it was refused.
    pub fn put(&mut self, key: &str, value: &str) -> io::Result<Result<i64, Value>> {
        let (status, answer) =
            self.call("/v3/kv/put", &json!({"key": b64(key), "value": b64(value)}))?;
        Ok(if status == 200 { Ok(number(&answer["header"]["revision"])) } else { Err(answer) })
    }

    /// Reads a key.
    pub fn get(&mut self, key: &str) -> io::Result<Option<String>> {
        let (status, answer) = self.call("/v3/kv/range", &json!({"key": b64(key)}))?;
        assert_eq!(status, 200, "{answer}");
        Ok(answer["kvs"].get(0).map(|kv| text(&kv["value"])))
    }

    /// Begins a stream; its messages come from [`Lines::next`].
    pub fn stream(mut self, path: &str, body: &Value) -> io::Result<Lines> {
        self.send("POST", path, body.to_string().as_bytes())?;
        let (status, _) = self.head()?;
        assert_eq!(status, 200, "{path} is refused");
        Ok(Lines { http: self, rest: Vec::new() })
    }
}

/// A stream of the gateway: one JSON object a line.
pub struct Lines {
    http: Http,
    rest: Vec<u8>,
}

impl Lines {
    /// The next message; `None` when the stream ended well.
    #[allow(clippy::should_implement_trait)] // It can fail.
    pub fn next(&mut self) -> io::Result<Option<Value>> {
        loop {
            if let Some(at) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                return serde_json::from_slice(&line).map(Some).map_err(io::Error::other);
            }
            match self.http.chunk()? {
                Some(chunk) => self.rest.extend(chunk),
                None => return Ok(None),
            }
        }
    }
}
