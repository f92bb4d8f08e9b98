//! Which of the front's parts a request is for: gRPC, the JSON gateway, a plain page, or none. It
//! adds what etcd adds to every plain answer (CORS).

use std::convert::Infallible;
use std::rc::Rc;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method as Verb, Request, Response, Version};
use hyper::body::Incoming;

use super::body::Body;
use super::{Calls, Front, grpc, json, pages};

/// Answers a request, whatever it is.
pub(super) async fn answer<C: Calls>(
    front: Rc<Front<C>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    if request.version() != Version::HTTP_2 {
        return Ok(Box::pin(plain(front, request)).await);
    }
    let content_type = request.headers().get(CONTENT_TYPE);
    if content_type.is_some_and(|value| grpc::is_grpc(value.as_bytes())) {
        return Ok(grpc::call(front, request).await);
    }
    if front.methods.contains_key(request.uri().path()) {
        return Ok(grpc::wrong_content_type(request.headers()));
    }
    Ok(Box::pin(plain(front, request)).await)
}

/// Everything but gRPC, over either version of HTTP.
async fn plain<C: Calls>(front: Rc<Front<C>>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    // Clients of long ago say v3beta.
    let gateway = path.strip_prefix("/v3/").or_else(|| path.strip_prefix("/v3beta/"));
    let gateway = gateway.map(str::to_owned);
    let mut response = match gateway {
        _ if request.method() == Verb::OPTIONS => Response::new(Body::Nothing),
        Some(path) => {
            let (parts, body) = request.into_parts();
            json::answer(&front, &path, parts, body).await
        }
        None => pages::answer(&front, &request).await,
    };
    cors(response.headers_mut());
    response
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
