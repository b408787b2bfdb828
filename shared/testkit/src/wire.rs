//! Proxies between a function and what it talks to. They see whole calls: each is counted, and one of them may meet
//! a fault.

mod http;
mod postgres;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::faults::{Call, Effect, Fault, Point, Service};
use crate::http::Background;
use crate::lambda::Lambda;

/// What passed through the proxies of one world.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    armed: Option<(Point, Fault)>,
    struck: bool,
}

impl Wire {
    pub(crate) fn armed(point: Point, fault: Fault) -> Self {
        let state = State {
            armed: Some((point, fault)),
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
        }
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// Whether the fault has happened.
    pub(crate) fn struck(&self) -> bool {
        self.state().struck
    }

    fn note(&self, service: Service, what: String, effect: Effect) -> Option<Fault> {
        let mut state = self.state();
        let number = 1 + state.calls.iter().filter(|call| call.point.service == service).count();
        let point = Point { service, number };
        state.calls.push(Call { point, what, effect });
        let (_, fault) = state.armed.take_if(|(target, _)| *target == point)?;
        state.struck = true;
        Some(fault)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The proxies of one function.
#[derive(Debug)]
pub(crate) struct Proxies {
    addresses: [String; 4],
    victim: Arc<OnceLock<Lambda>>,
    _servers: [Background; 4],
}

impl Proxies {
    /// In front of the database, SES, SQS and S3, in that order.
    pub(crate) async fn start(wire: Arc<Wire>, upstream: [&str; 4]) -> io::Result<Self> {
        let victim = Arc::new(OnceLock::new());
        let start = async |service, url: &str| {
            let place = authority(url);
            let mut upstream = url[place.clone()].to_owned();
            if service == Service::Postgres && !upstream.contains(':') {
                upstream.push_str(":5432");
            }
            let (wire, victim) = (wire.clone(), victim.clone());
            let route = Route {
                service,
                upstream,
                wire,
                victim,
            };
            let (server, address) = route.listen().await?;
            let address = [&url[..place.start], &address.to_string(), &url[place.end..]].concat();
            io::Result::Ok((server, address))
        };
        let [database, ses, sqs, s3] = upstream;
        let (first, database) = start(Service::Postgres, database).await?;
        let (second, ses) = start(Service::Ses, ses).await?;
        let (third, sqs) = start(Service::Sqs, sqs).await?;
        let (fourth, s3) = start(Service::S3, s3).await?;
        Ok(Self {
            addresses: [database, ses, sqs, s3],
            victim,
            _servers: [first, second, third, fourth],
        })
    }

    /// The addresses of the same places, through the proxies.
    pub(crate) fn addresses(&self) -> [String; 4] {
        self.addresses.clone()
    }

    /// From now on calls count, and this is whom a kill strikes.
    pub(crate) fn aim_at(&self, lambda: Lambda) {
        let _ = self.victim.set(lambda);
    }
}

/// Where host and port are in a URL.
fn authority(url: &str) -> std::ops::Range<usize> {
    let scheme = url.find("://").map_or(0, |at| at + 3);
    let end = url[scheme..].find('/').map_or(url.len(), |at| scheme + at);
    let start = url[..end].rfind('@').map_or(scheme, |at| at + 1);
    start..end
}

#[derive(Clone, Debug)]
struct Route {
    service: Service,
    upstream: String,
    wire: Arc<Wire>,
    victim: Arc<OnceLock<Lambda>>,
}

impl Route {
    async fn listen(self) -> io::Result<(Background, SocketAddr)> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let serve = async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((client, _)) = accepted {
                        connections.spawn(self.clone().connect(client));
                    },
                    Some(_) = connections.join_next() => {}
                }
            }
        };
        Ok((Background::spawn(serve), address))
    }

    async fn connect(self, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(&self.upstream).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (client, server) = (End::new(client), End::new(server));
        match self.service {
            Service::Postgres => postgres::relay(&self, client, server).await,
            Service::Ses | Service::Sqs | Service::S3 => http::relay(&self, client, server).await,
        }
    }

    fn note(&self, what: String, effect: Effect) -> Option<Fault> {
        self.victim.get()?;
        self.wire.note(self.service, what, effect)
    }

    async fn kill(&self) {
        if let Some(victim) = self.victim.get() {
            victim.kill().await;
        }
    }
}

/// One end of a connection, and what has come from it.
#[derive(Debug)]
struct End {
    stream: TcpStream,
    received: BytesMut,
}

impl End {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            received: BytesMut::new(),
        }
    }

    /// Waits for more; that there is no more is an error, too.
    async fn receive(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }
}

/// Sends a call on, or does to it what is due; an error ends the connection.
async fn carry<E>(
    route: &Route,
    fault: Option<Fault>,
    ends: &mut E,
    exchange: impl AsyncFnOnce(&mut E) -> io::Result<bytes::Bytes>,
    refuse: impl AsyncFnOnce(&mut E) -> io::Result<bytes::Bytes>,
) -> io::Result<bytes::Bytes> {
    let cut = || io::Error::from(io::ErrorKind::ConnectionReset);
    match fault {
        None => exchange(ends).await,
        Some(Fault::Error) => refuse(ends).await,
        Some(Fault::TimeoutBefore) => Err(cut()),
        Some(Fault::AppliedButTimedOut) => {
            exchange(ends).await?;
            Err(cut())
        }
        Some(Fault::KillBefore) => {
            route.kill().await;
            Err(cut())
        }
        Some(Fault::KillAfter) => {
            exchange(ends).await?;
            route.kill().await;
            Err(cut())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::authority;

    #[test]
    fn host_and_port_are_found_in_any_address() {
        for (url, expected) in [
            ("http://127.0.0.1:80", "127.0.0.1:80"),
            ("postgres://me:p@127.0.0.1:5432/app?x=y", "127.0.0.1:5432"),
        ] {
            assert_eq!(&url[authority(url)], expected);
        }
    }
}
