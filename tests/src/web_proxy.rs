//! A proxy as `HTTP_PROXY` and `HTTPS_PROXY` name them, which writes down what it is asked for.
//!
//! Whatever host is named, one server answers: so a test can use names that nobody else resolves,
//! and a client that goes past the proxy finds nothing.

use std::io::{self, BufRead as _, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use crate::listener::Listener;
use crate::lock;

/// A forward proxy on a loopback port.
pub struct WebProxy {
    listener: Listener,
    asked: Arc<Mutex<Vec<String>>>,
}

impl WebProxy {
    /// Leads all requests to `host`, an address with its port.
    pub fn start(host: &str) -> io::Result<Self> {
        let server: SocketAddr = host.parse().map_err(io::Error::other)?;
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let for_connections = Arc::clone(&asked);
        let listener = Listener::start(Ipv4Addr::LOCALHOST, move |client| {
            serve(client, server, &for_connections)
        })?;
        Ok(Self { listener, asked })
    }

    /// Returns `http://127.0.0.1:PORT`, as the environment names proxies.
    pub fn url(&self) -> String {
        format!("http://{}", self.listener.address())
    }

    /// Returns the first request of each connection, such as `CONNECT registry.test:443` or
    /// `GET http://registry.test/v2/`.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.asked).clone()
    }
}

fn serve(client: &TcpStream, server: SocketAddr, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut reader = BufReader::new(client);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&head);
    let first: Vec<_> = text.split_ascii_whitespace().take(2).collect();
    lock(asked).push(first.join(" "));
    let stream = TcpStream::connect(server)?;
    let mut to_server = &stream;
    if text.starts_with("CONNECT ") {
        let mut to_client = client;
        to_client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    } else {
        // Later requests of the connection are of the same form and for the same server.
        to_server.write_all(&head)?;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut { &stream }, &mut { client });
            let _ = client.shutdown(Shutdown::Both);
        });
        let result = io::copy(&mut reader, &mut to_server);
        let _ = stream.shutdown(Shutdown::Write);
        result.map(|_| ())
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::Registry;

    fn talk(proxy: &WebProxy, text: &str) -> String {
        let mut stream = TcpStream::connect(proxy.listener.address()).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn both_kinds_of_requests_reach_the_server_and_are_written_down() {
        let registry = Registry::start().unwrap();
        let proxy = WebProxy::start(&registry.host()).unwrap();
        let plain =
            talk(&proxy, "GET http://registry.test/v2/ HTTP/1.1\r\nConnection: close\r\n\r\n");
        assert!(plain.starts_with("HTTP/1.1 200") && plain.ends_with("{}"), "{plain}");
        let tunnel = talk(
            &proxy,
            "CONNECT registry.test:443 HTTP/1.1\r\n\r\n\
             GET /v2/ HTTP/1.1\r\nConnection: close\r\n\r\n",
        );
        assert!(tunnel.ends_with("{}"), "{tunnel}");
        assert_eq!(proxy.asked(), ["GET http://registry.test/v2/", "CONNECT registry.test:443"]);
    }
}
