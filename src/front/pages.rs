//! The plain pages: how the member is, what it counts, which version it has. Their contents come
//! from elsewhere; here are the paths, methods, and the answer to a path that is nothing.

use std::borrow::Cow;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS as NOSNIFF};
use http::{Method as Verb, Request, Response, StatusCode};

use super::body::Body;
use super::{Calls, Front};
use crate::api::pages::Page;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// Answers a request for a plain page.
pub(super) async fn answer<C: Calls, B>(
    front: &Front<C>,
    path: &str,
    request: &Request<B>,
) -> Response<Body> {
    let page = match path {
        // Prometheus's handler takes any method.
        "/metrics" => {
            Some(Page { status: 200, content_type: PROMETHEUS, body: (front.config.metrics)() })
        }
        "/debug/vars" => {
            Some(Page { status: 200, content_type: JSON, body: (front.config.vars)() })
        }
        _ => {
            let query = request.uri().query().unwrap_or_default();
            Rc::clone(&front.calls).page(path.to_owned(), query.to_owned()).await
        }
    };
    match page {
        None => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        Some(_) if request.method() != Verb::GET && path != "/metrics" => {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            response
        }
        Some(page) => {
            let mut response = text(StatusCode::OK, page.body);
            *response.status_mut() = StatusCode::from_u16(page.status).unwrap_or_default();
            let content_type = HeaderValue::from_static(page.content_type);
            response.headers_mut().insert(CONTENT_TYPE, content_type);
            if !(path.starts_with("/livez") || path.starts_with("/readyz")) {
                // etcd says this of its errors and of these two pages only.
                response.headers_mut().remove(NOSNIFF);
            }
            response
        }
    }
}

/// A short text, which browsers must not take for anything else.
pub(super) fn text(status: StatusCode, body: impl Into<Cow<'static, str>>) -> Response<Body> {
    let bytes = match body.into() {
        Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
        Cow::Owned(text) => Bytes::from(text),
    };
    let mut response = Response::new(Body::Whole(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    headers.insert(NOSNIFF, HeaderValue::from_static("nosniff"));
    response
}
