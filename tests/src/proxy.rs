//! A network between a client and a server that is slow, far away, or breaks.
//!
//! It forwards TCP on loopback and knows nothing of what it carries. Its buffers are bounded, and
//! what it counts is what it delivered, not what it read.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::listener::Listener;

/// How much is moved at a time.
const PIECE: usize = 64 << 10;
/// How many pieces are under way in each direction of a connection.
const PIECES: usize = 64;

/// What a network does to its connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Network {
    cut_after: Option<u64>,
    /// How many connections that happens to.
    cuts: Option<u64>,
    latency: Duration,
    /// Bytes a second that each connection gets.
    share: Option<u64>,
}

impl Network {
    /// A network that delivers everything at once.
    pub fn good() -> Self {
        Self::default()
    }

    /// Cuts each connection after so many bytes, both directions counted together.
    #[must_use]
    pub fn cutting_after(mut self, bytes: u64) -> Self {
        self.cut_after = Some(bytes);
        self
    }

    /// Cuts only the first connections.
    #[must_use]
    pub fn only_first(mut self, connections: u64) -> Self {
        self.cuts = Some(connections);
        self
    }

    /// Delivers bytes so much later, each way: a request and its answer take twice that, and so
    /// does making a connection. How many bytes are under way is not limited by it.
    #[must_use]
    pub fn with_latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// Gives each connection so many bytes a second towards the client, however many there are.
    #[must_use]
    pub fn with_share(mut self, bytes: u64) -> Self {
        self.share = Some(bytes);
        self
    }
}

/// A forwarding port on loopback; dropping it closes all its connections.
pub struct Proxy {
    listener: Listener,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    cut: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
}

impl Proxy {
    /// Forwards to `host`, an address with its port.
    pub fn start(host: &str, network: Network) -> io::Result<Self> {
        let server: SocketAddr = host.parse().map_err(io::Error::other)?;
        let counts = Arc::new(Counts::default());
        let for_connections = Arc::clone(&counts);
        let listener = Listener::start(Ipv4Addr::LOCALHOST, move |client| {
            let before = for_connections.connections.fetch_add(1, Ordering::Relaxed);
            let mut network = network;
            if network.cuts.is_some_and(|cuts| before >= cuts) {
                network.cut_after = None;
            }
            forward(client, server, network, &for_connections)
        })?;
        Ok(Self { listener, counts })
    }

    /// Returns `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.listener.address().to_string()
    }

    /// Returns the reference `docker://HOST/REST`.
    pub fn reference(&self, rest: &str) -> String {
        format!("docker://{}/{rest}", self.host())
    }

    /// Returns how many connections there were.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Returns how many connections were cut.
    pub fn cuts(&self) -> u64 {
        self.counts.cut.load(Ordering::Relaxed)
    }

    /// Returns how many bytes reached the server, heads of requests included.
    pub fn to_server(&self) -> u64 {
        self.counts.to_server.load(Ordering::Relaxed)
    }

    /// Returns how many bytes reached the client.
    pub fn to_client(&self) -> u64 {
        self.counts.to_client.load(Ordering::Relaxed)
    }
}

/// What both directions of a connection share.
struct Line<'a> {
    client: &'a TcpStream,
    server: OnceLock<TcpStream>,
    /// Bytes that may still pass.
    left: AtomicU64,
    cut: AtomicBool,
    counts: &'a Counts,
}

impl Line<'_> {
    fn close(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        if let Some(server) = self.server.get() {
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    /// Takes up to `wanted` bytes of what may pass.
    fn take(&self, wanted: usize) -> usize {
        let wanted = wanted as u64;
        let take = |left: u64| Some(left - left.min(wanted));
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        usize::try_from(left.unwrap_or(0).min(wanted)).unwrap_or(PIECE)
    }
}

fn forward(
    client: &TcpStream,
    server: SocketAddr,
    network: Network,
    counts: &Counts,
) -> io::Result<()> {
    let stream = TcpStream::connect(server)?;
    client.set_nodelay(true)?;
    stream.set_nodelay(true)?;
    let line = Line {
        client,
        server: OnceLock::from(stream.try_clone()?),
        left: AtomicU64::new(network.cut_after.unwrap_or(u64::MAX)),
        cut: AtomicBool::new(false),
        counts,
    };
    let (line, server) = (&line, &stream);
    // The system accepts at once, so the first bytes pay for the handshake.
    let setup = network.latency * 2;
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(PIECES);
        let upwards = Pacing { latency: network.latency, setup, share: None };
        scope.spawn(move || read(client, &sender, upwards));
        scope.spawn(move || write(server, &receiver, line, &counts.to_server));
        let (sender, receiver) = sync_channel(PIECES);
        let share = network.share;
        let downwards = Pacing { latency: network.latency, setup: Duration::ZERO, share };
        scope.spawn(move || read(server, &sender, downwards));
        write(client, &receiver, line, &counts.to_client);
    });
    Ok(())
}

/// When what arrives is to be delivered.
#[derive(Clone, Copy)]
struct Pacing {
    latency: Duration,
    /// How much later the first bytes come.
    setup: Duration,
    share: Option<u64>,
}

/// Reads what arrives and says when it is to be delivered; nothing is the end.
fn read(mut from: &TcpStream, to: &SyncSender<(Instant, Vec<u8>)>, pacing: Pacing) {
    let mut setup = pacing.setup;
    let mut earliest = Instant::now();
    loop {
        let mut piece = vec![0; PIECE];
        let count = from.read(&mut piece).unwrap_or(0);
        piece.truncate(count);
        // What follows closely on the first bytes does not overtake them.
        earliest = earliest.max(Instant::now() + pacing.latency + setup);
        setup = Duration::ZERO;
        if to.send((earliest, piece)).is_err() || count == 0 {
            return;
        }
        if let Some(share) = pacing.share {
            earliest += Duration::from_secs_f64(count as f64 / share as f64);
        }
    }
}

/// Delivers what is due, until the end or the cut.
fn write(mut to: &TcpStream, from: &Receiver<(Instant, Vec<u8>)>, line: &Line, count: &AtomicU64) {
    for (due, piece) in from {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if piece.is_empty() {
            // The other direction may go on.
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
        let allowed = line.take(piece.len());
        let written = to.write_all(&piece[..allowed]);
        count.fetch_add(allowed as u64, Ordering::Relaxed);
        if allowed < piece.len() && !line.cut.swap(true, Ordering::Relaxed) {
            line.counts.cut.fetch_add(1, Ordering::Relaxed);
        }
        if written.is_err() || allowed < piece.len() {
            return line.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    fn echo() -> Listener {
        Listener::start(Ipv4Addr::LOCALHOST, |stream| {
            let (mut reader, mut writer) = (stream, stream);
            io::copy(&mut reader, &mut writer)?;
            stream.shutdown(Shutdown::Write)
        })
        .unwrap()
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.listener.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    #[test]
    fn all_bytes_pass_and_are_counted() {
        let server = echo();
        let proxy = Proxy::start(&server.address().to_string(), Network::good()).unwrap();
        let mut stream = connect(&proxy);
        let sent = vec![7; 3 << 20];
        let received = std::thread::scope(|scope| {
            let (mut writer, sent) = (&stream, &sent);
            scope.spawn(move || {
                writer.write_all(sent).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut received = Vec::new();
            (&stream).read_to_end(&mut received).unwrap();
            received
        });
        assert!(received == sent);
        assert_eq!((proxy.to_server(), proxy.to_client()), (3 << 20, 3 << 20));
        assert_eq!((proxy.connections(), proxy.cuts()), (1, 0));
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_connection_is_cut_after_as_many_bytes_as_asked() {
        let server = echo();
        let network = Network::good().cutting_after(1000);
        let proxy = Proxy::start(&server.address().to_string(), network).unwrap();
        for round in 1..=2 {
            let mut stream = connect(&proxy);
            stream.write_all(&[1; 700]).unwrap();
            let mut received = Vec::new();
            let _ = stream.read_to_end(&mut received);
            assert_eq!(received.len(), 300);
            assert_eq!(proxy.to_server() + proxy.to_client(), round * 1000);
            assert_eq!(proxy.cuts(), round);
        }
    }

    #[test]
    fn only_the_first_connections_are_cut_if_so_asked() {
        let server = echo();
        let network = Network::good().cutting_after(10).only_first(1);
        let proxy = Proxy::start(&server.address().to_string(), network).unwrap();
        let lengths = [(); 2].map(|()| {
            let mut stream = connect(&proxy);
            stream.write_all(&[1; 20]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut received = Vec::new();
            let _ = stream.read_to_end(&mut received);
            received.len()
        });
        assert_eq!((lengths, proxy.cuts()), ([0, 20], 1));
    }

    #[test]
    fn a_round_trip_takes_twice_the_latency_and_the_first_one_four_times() {
        let server = echo();
        let network = Network::good().with_latency(Duration::from_millis(50));
        let proxy = Proxy::start(&server.address().to_string(), network).unwrap();
        let mut stream = connect(&proxy);
        let mut round = || {
            let start = Instant::now();
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            start.elapsed()
        };
        assert!(round() >= Duration::from_millis(200));
        let second = round();
        assert!(second >= Duration::from_millis(100), "{second:?}");
        // Far more than what one round trip carries in one piece.
        let start = Instant::now();
        let received = std::thread::scope(|scope| {
            let mut writer = &stream;
            scope.spawn(move || {
                writer.write_all(&vec![0; 2 << 20]).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut received = Vec::new();
            (&stream).read_to_end(&mut received).unwrap();
            received
        });
        assert_eq!(received.len(), 2 << 20);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }

    #[test]
    fn each_connection_gets_its_share() {
        let server = echo();
        let network = Network::good().with_share(1 << 20);
        let proxy = Proxy::start(&server.address().to_string(), network).unwrap();
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let stream = connect(&proxy);
                    (&stream).write_all(&vec![0; 512 << 10]).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                    let mut received = Vec::new();
                    (&stream).read_to_end(&mut received).unwrap();
                    assert_eq!(received.len(), 512 << 10);
                });
            }
        });
        let elapsed = start.elapsed();
        // All but the last piece are waited for.
        assert!(elapsed >= Duration::from_millis(400), "{elapsed:?}");
    }

    #[test]
    fn dropping_it_ends_its_connections() {
        let server = echo();
        let proxy = Proxy::start(&server.address().to_string(), Network::good()).unwrap();
        let mut stream = connect(&proxy);
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        drop(proxy);
        assert!(stream.read(&mut [0]).is_ok_and(|count| count == 0));
    }
}
