//! URLs as etcd takes them: a scheme, a host and a port, nothing else.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// How to talk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// With TLS.
    Https,
    /// Over a local socket.
    Unix,
    /// Over a local socket with TLS.
    Unixs,
}

/// A URL without path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Url {
    /// How to talk.
    pub scheme: Scheme,
    /// A name or an address, an IPv6 address without its brackets; for local sockets the path.
    pub host: String,
    /// The port; 0 for local sockets.
    pub port: u16,
}

impl Url {
    /// The address to bind, if the host is one. `localhost` is the IPv4 one, as in etcd.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        let ip = match self.host.as_str() {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.parse().ok()?,
        };
        Some(SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Url { scheme, host, port } = self;
        match scheme {
            Scheme::Http | Scheme::Https => {
                let scheme = if *scheme == Scheme::Http { "http" } else { "https" };
                match host.contains(':') {
                    true => write!(out, "{scheme}://[{host}]:{port}"),
                    false => write!(out, "{scheme}://{host}:{port}"),
                }
            }
            Scheme::Unix => write!(out, "unix://{host}"),
            Scheme::Unixs => write!(out, "unixs://{host}"),
        }
    }
}

/// Why a text is no URL for a member. The texts are etcd's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("parse {0:?}: first path segment in URL cannot contain colon")]
    NoScheme(String),
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    #[error("URL address does not have the form \"host:port\": {0}")]
    HostPort(String),
    #[error("URL must not contain a path: {0}")]
    Path(String),
}

/// Reads URLs with commas between them. Sorted, as etcd keeps them.
pub(super) fn parse_list(text: &str) -> Result<Vec<Url>, Error> {
    let mut urls = text.split(',').map(|url| parse(url.trim())).collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    Ok(urls)
}

fn parse(text: &str) -> Result<Url, Error> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(match text.split_once(':') {
            Some((head, _)) if !head.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                Error::NoScheme(text.to_owned())
            }
            _ => Error::Scheme(text.to_owned()),
        });
    };
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        "unix" => return Ok(Url { scheme: Scheme::Unix, host: rest.to_owned(), port: 0 }),
        "unixs" => return Ok(Url { scheme: Scheme::Unixs, host: rest.to_owned(), port: 0 }),
        _ => return Err(Error::Scheme(text.to_owned())),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let form = || Error::HostPort(text.to_owned());
    let (host, port) = match authority.strip_prefix('[') {
        Some(inner) => inner.split_once("]:").ok_or_else(form)?,
        None => authority.split_once(':').ok_or_else(form)?,
    };
    let port = port.parse().map_err(|_| form())?;
    if !path.is_empty() {
        return Err(Error::Path(text.to_owned()));
    }
    Ok(Url { scheme, host: host.to_owned(), port })
}
