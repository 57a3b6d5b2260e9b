//! What speaks Docker's API as far as images are saved and loaded, and fails as it is told.

use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::{Arc, Mutex};

use crate::http::{Arrived, Connection, Delivery, Intake, Request, Response, Traffic};
use crate::listener::Listener;
use crate::lock;

/// What the daemon does.
#[derive(Clone, Debug)]
pub struct Script {
    /// The version of the API that it says it speaks, if it says so.
    pub version: Option<&'static str>,
    /// After so many bytes of an archive that is loaded, it answers, or hangs up without an answer.
    pub stop_after: Option<u64>,
    /// What it answers to an archive: a status and a body; `None` hangs up.
    pub load: Option<(u16, String)>,
    /// What it sends when an image is saved: a status and a body.
    pub save: (u16, Vec<u8>),
    /// After so many bytes of it, it hangs up.
    pub cut: Option<usize>,
}

impl Default for Script {
    /// Loads everything, and has no image.
    fn default() -> Self {
        Self {
            version: Some("1.43"),
            stop_after: None,
            load: Some((200, "{\"stream\":\"Loaded image: x\\n\"}\r\n".to_owned())),
            save: (404, b"{\"message\":\"No such image\"}".to_vec()),
            cut: None,
        }
    }
}

/// A daemon on a loopback port, without TLS.
pub struct ScriptedDaemon {
    listener: Listener,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    requests: Vec<String>,
    archives: Vec<Vec<u8>>,
}

impl ScriptedDaemon {
    /// Starts one.
    pub fn start(script: Script) -> io::Result<Self> {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let for_connections = Arc::clone(&seen);
        let traffic = Traffic::default();
        let listener = Listener::start(Ipv4Addr::LOCALHOST, move |stream| {
            serve(stream, &script, &for_connections, &traffic)
        })?;
        Ok(Self { listener, seen })
    }

    /// Returns its address, as `--daemon-host` takes it.
    pub fn host(&self) -> String {
        format!("http://{}", self.listener.address())
    }

    /// Returns what it was asked, such as `GET /v1.43/images/get?names=a`.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.seen).requests.clone()
    }

    /// Returns the archives that it was sent to their end.
    pub fn archives(&self) -> Vec<Vec<u8>> {
        lock(&self.seen).archives.clone()
    }
}

fn serve(
    stream: &TcpStream,
    script: &Script,
    seen: &Mutex<Seen>,
    traffic: &Traffic,
) -> io::Result<()> {
    let mut connection = Connection::new(stream, traffic)?;
    while let Some(mut request) = connection.read_head()? {
        lock(seen).requests.push(format!("{} {}", request.method, request.target));
        if request.path == "/_ping" {
            let mut response = Response::new(200).body("OK");
            if let Some(version) = script.version {
                response = response.with("Api-Version", version);
            }
            connection.write_response(&request, &response, Delivery::default())?;
        } else if request.path.ends_with("/images/load") {
            let intake = Intake { stop_after: script.stop_after, ..Intake::default() };
            let arrived = connection.read_body(&mut request, intake)?;
            if arrived == Arrived::Whole {
                lock(seen).archives.push(request.body.clone());
            }
            let Some((status, body)) = &script.load else { return Ok(()) };
            let response = Response::new(*status).json(body.clone());
            connection.write_response(&request, &response, Delivery::default())?;
            if arrived != Arrived::Whole {
                connection.linger();
                return Ok(());
            }
        } else {
            save(&mut connection, &request, script)?;
            if script.cut.is_some() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn save(connection: &mut Connection<'_>, request: &Request, script: &Script) -> io::Result<()> {
    let (status, body) = &script.save;
    let response = Response::new(*status).body(body.clone());
    let delivery = Delivery { cut: script.cut, chunked: true, ..Delivery::default() };
    connection.write_response(request, &response, delivery)
}
