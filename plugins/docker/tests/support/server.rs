//! An HTTP server that does what a test tells it, faults included, and remembers what it saw.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body arrived to its end.
    pub complete: bool,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(key, _)| key == name).map(|(_, v)| v.as_str()).collect()
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let value = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")))?;
        Some(value.replace("%3A", ":").replace("%2F", "/").replace("%2C", ","))
    }

    /// `GET /v2/a/manifests/b`, without the query.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path())
    }
}

/// What to answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Close the connection after this many bytes of the body.
    pub cut: Option<usize>,
    /// Announce this length in place of the true one.
    pub length: Option<usize>,
    /// Close the connection afterwards.
    pub close: bool,
    /// Never answer.
    pub silent: bool,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            cut: None,
            length: None,
            close: false,
            silent: false,
        }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// An error of the registry's JSON form.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::new(status)
            .with("content-type", "application/json")
            .body(format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#))
    }

    pub fn silent() -> Self {
        Self { silent: true, ..Self::new(200) }
    }
}

type Early = dyn Fn(&Seen) -> Option<Reply> + Send + Sync;
type Answer = dyn Fn(&Seen) -> Reply + Send + Sync;

/// A running server; its threads end with the process.
#[derive(Clone)]
pub struct Server {
    pub port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::launch(None, Arc::new(|_| None), Arc::new(answer))
    }

    /// As `start`; `early` may answer when only the head of a request has arrived.
    pub fn start_early(
        early: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static,
        answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::launch(None, Arc::new(early), Arc::new(answer))
    }

    /// As `start`, with TLS and a certificate for `localhost` that nobody trusts.
    pub fn start_tls(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/self-signed");
        let certificate = CertificateDer::from_pem_file(format!("{dir}.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_file(format!("{dir}.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Self::launch(Some(Arc::new(config)), Arc::new(|_| None), Arc::new(answer))
    }

    fn launch(
        tls: Option<Arc<rustls::ServerConfig>>,
        early: Arc<Early>,
        answer: Arc<Answer>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { port: listener.local_addr().unwrap().port(), seen: Arc::default() };
        let shared = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, early, answer, tls) =
                    (shared.clone(), early.clone(), answer.clone(), tls.clone());
                thread::spawn(move || {
                    let _ = match tls {
                        Some(config) => {
                            let connection = rustls::ServerConnection::new(config).unwrap();
                            let stream = rustls::StreamOwned::new(connection, stream);
                            shared.serve(stream, &*early, &*answer)
                        }
                        None => shared.serve(stream, &*early, &*answer),
                    };
                });
            }
        });
        server
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Method and path of all requests, in order.
    pub fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }

    /// Waits until a request has arrived that fits; the destination cancels in the background.
    pub fn wait_for(&self, what: impl Fn(&Seen) -> bool) -> bool {
        (0..200).any(|_| {
            let found = self.seen().iter().any(&what);
            if !found {
                thread::sleep(Duration::from_millis(10));
            }
            found
        })
    }

    fn serve<S: Read + Write>(&self, stream: S, early: &Early, answer: &Answer) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let Some(mut seen) = read_head(&mut stream)? else { return Ok(()) };
            if let Some(reply) = early(&seen) {
                self.seen.lock().unwrap().push(seen);
                write_reply(stream.get_mut(), "", &reply)?;
                // A moment for the answer to be read before the connection is reset.
                thread::sleep(Duration::from_millis(300));
                return Ok(());
            }
            seen.complete = read_body(&mut stream, &mut seen).is_ok();
            self.seen.lock().unwrap().push(seen.clone());
            if !seen.complete {
                return Ok(());
            }
            let reply = answer(&seen);
            if reply.silent {
                thread::sleep(Duration::from_secs(60));
                return Ok(());
            }
            write_reply(stream.get_mut(), &seen.method, &reply)?;
            if reply.close || reply.cut.is_some() {
                return Ok(());
            }
        }
    }
}

fn read_head(stream: &mut impl BufRead) -> io::Result<Option<Seen>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace().map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => {
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            None => break,
        }
    }
    Ok(Some(Seen { method, target, headers, body: Vec::new(), complete: false }))
}

fn read_body(stream: &mut impl BufRead, seen: &mut Seen) -> io::Result<()> {
    if seen.header("transfer-encoding") == Some("chunked") {
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; length + 2];
            stream.read_exact(&mut chunk)?;
            if length == 0 {
                return Ok(());
            }
            seen.body.extend_from_slice(&chunk[..length]);
        }
    }
    let length = seen.header("content-length").map_or(0, |text| text.parse().unwrap());
    let body = &mut seen.body;
    stream.take(length as u64).read_to_end(body)?;
    if body.len() < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

fn write_reply(stream: &mut impl Write, method: &str, reply: &Reply) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Status\r\n", reply.status);
    for (name, value) in &reply.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let given = reply.headers.iter().any(|(name, _)| name == "content-length");
    if !given {
        let length = reply.length.unwrap_or(reply.body.len());
        let _ = write!(head, "content-length: {length}\r\n");
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if method != "HEAD" {
        let end = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
        stream.write_all(&reply.body[..end])?;
    }
    stream.flush()
}

/// Sends raw bytes to whoever connects, and closes.
pub fn raw(bytes: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer_raw(stream, bytes);
        }
    });
    port
}

fn answer_raw(mut stream: TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let _ = stream.read(&mut buffer)?;
    stream.write_all(bytes)
}
