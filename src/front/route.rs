//! Which of the front's parts a request is for: gRPC, the JSON gateway, a plain page, or none. It
//! adds what etcd adds to every plain answer (CORS).

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::rc::Rc;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use http::{Method as Verb, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use super::body::Body;
use super::{Calls, Front, grpc, json, pages};

/// An answer on its way. In a box at once: hyper moves the future of a request several times before
/// it runs, and a small one costs less to move than a box to make.
pub(super) type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>>>>;

/// Answers a request, whatever it is.
pub(super) fn answer<C: Calls>(front: Rc<Front<C>>, request: Request<Incoming>) -> Answer {
    if request.version() != Version::HTTP_2 {
        return Box::pin(plain(front, request));
    }
    let content_type = request.headers().get(CONTENT_TYPE);
    if content_type.is_some_and(|value| grpc::is_grpc(value.as_bytes())) {
        return grpc::call(&front, request);
    }
    if front.methods.contains_key(request.uri().path()) {
        return Box::pin(ready(Ok(grpc::wrong_content_type(request.headers()))));
    }
    Box::pin(plain(front, request))
}

/// Everything but gRPC, over either version of HTTP.
async fn plain<C: Calls>(
    front: Rc<Front<C>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = decoded(request.uri().path()).into_owned();
    let mut response = if request.method() == Verb::OPTIONS {
        Response::new(Body::Nothing)
    } else if let Some(clean) = cleaned(&path) {
        moved(&clean, request.uri().query())
    } else if let Some(below) =
        // Clients of long ago say v3beta.
        path.strip_prefix("/v3/").or_else(|| path.strip_prefix("/v3beta/"))
    {
        let (parts, body) = request.into_parts();
        json::answer(&front, below, parts, body).await
    } else {
        pages::answer(&front, &path, &request).await
    };
    cors(response.headers_mut());
    Ok(response)
}

/// What browsers need to be allowed to use the answer: all origins, as etcd's `--cors=*`.
fn cors(headers: &mut HeaderMap) {
    for (name, value) in [
        ("access-control-allow-headers", "accept, content-type, authorization"),
        ("access-control-allow-methods", "POST, GET, OPTIONS, PUT, DELETE"),
        ("access-control-allow-origin", "*"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// A path without its per cent escapes; one that is no text stays as it is, and is found nowhere.
fn decoded(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.first_chunk::<2>().and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(escaped) if byte == b'%' => {
                bytes.push(escaped);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(path), Cow::Owned)
}

/// Where Go's router sends a path that is written in a roundabout way; `None` for a straight one.
fn cleaned(path: &str) -> Option<String> {
    if path == "/v3" {
        return Some("/v3/".into());
    }
    let odd = |part: &str| matches!(part, "" | "." | "..");
    if !path.starts_with('/') || !path[1..].trim_end_matches('/').split('/').any(odd) {
        let straight = path == "/" || !path.ends_with("//");
        if straight {
            return None;
        }
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let slash = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    let clean = format!("/{}{slash}", parts.join("/"));
    (clean != path).then_some(clean)
}

fn moved(path: &str, query: Option<&str>) -> Response<Body> {
    let place = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut response = Response::new(Body::Nothing);
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    if let Ok(place) = HeaderValue::try_from(place) {
        response.headers_mut().insert(LOCATION, place);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::{cleaned, decoded};

    #[test]
    fn roundabout_paths_are_sent_to_the_straight_one() {
        for (path, clean) in [
            ("/v3", "/v3/"),
            ("/v3//kv/put", "/v3/kv/put"),
            ("/v3/kv/../kv/./put/", "/v3/kv/put/"),
            ("//", "/"),
            ("/../..", "/"),
            ("/v3/kv//", "/v3/kv/"),
        ] {
            assert_eq!(cleaned(path).as_deref(), Some(clean), "{path}");
            assert_eq!(cleaned(clean), None, "{clean}");
        }
        for path in ["/", "/health", "/v3/kv/put", "/v3/kv/put/", "/a..b"] {
            assert_eq!(cleaned(path), None, "{path}");
        }
    }

    #[test]
    fn escapes_are_undone_where_they_are_some() {
        for (path, text) in
            [("/%70ut", "/put"), ("/a", "/a"), ("/%", "/%"), ("/%zz%4", "/%zz%4"), ("/%ff", "/%ff")]
        {
            assert_eq!(decoded(path), text);
        }
    }
}
