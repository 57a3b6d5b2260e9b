//! The server that stands in front of most registries.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use super::{KeyPair, Process};
use crate::peers;

/// What an nginx does with the requests to one registry.
#[derive(Clone, Debug)]
pub struct Site {
    registry: String,
    tls: Option<KeyPair>,
    clients: Option<PathBuf>,
    protocols: Option<&'static str>,
    http2: bool,
    body_limit: u64,
}

impl Site {
    /// Passes everything on to a registry, given as host and port.
    pub fn before(registry: &str) -> Self {
        Self {
            registry: registry.to_owned(),
            tls: None,
            clients: None,
            protocols: None,
            http2: false,
            body_limit: 0,
        }
    }

    /// Speaks HTTPS alone.
    #[must_use]
    pub fn tls(mut self, pair: KeyPair) -> Self {
        self.tls = Some(pair);
        self
    }

    /// Lets in only who has a certificate of the authority whose own is in this file.
    #[must_use]
    pub fn clients_of(mut self, authority: PathBuf) -> Self {
        self.clients = Some(authority);
        self
    }

    /// Speaks these versions of TLS alone, such as `TLSv1.2`.
    #[must_use]
    pub fn protocols(mut self, protocols: &'static str) -> Self {
        self.protocols = Some(protocols);
        self
    }

    /// Offers HTTP/2 too.
    #[must_use]
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Refuses requests with more bytes in their body.
    #[must_use]
    pub fn body_limit(mut self, bytes: u64) -> Self {
        self.body_limit = bytes;
        self
    }
}

/// A running nginx; it is killed when this is dropped.
pub struct Nginx(Process);

impl Nginx {
    /// Starts it on a free loopback port.
    pub fn start(site: &Site) -> io::Result<Self> {
        let program = peers::find("nginx").ok_or(io::ErrorKind::NotFound)?;
        Process::start(|address, directory| {
            let config = directory.join("nginx.conf");
            fs::write(&config, configuration(site, address, directory))?;
            let mut command = Command::new(&program);
            command.arg("-p").arg(directory).arg("-c").arg(config);
            command.arg("-e").arg(directory.join("errors"));
            Ok(command)
        })
        .map(Self)
    }

    /// Returns `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.0.address.to_string()
    }

    /// Returns the reference `docker://HOST/REST`.
    pub fn reference(&self, rest: &str) -> String {
        format!("docker://{}/{rest}", self.host())
    }

    /// Returns a line for each request, such as `PUT /v2/a HTTP/2.0 201 1024`: the last is the
    /// length of the request, head included.
    pub fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.0.path("requests")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

fn configuration(site: &Site, address: SocketAddr, directory: &Path) -> String {
    let at = |name: &str| directory.join(name).display().to_string();
    // One process: it ends when it is killed, and runs as who started it.
    let mut text =
        format!("daemon off;\nmaster_process off;\npid {};\nevents {{}}\nhttp {{\n", at("pid"));
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "  {kind}_temp_path {};", at(kind));
    }
    let options = match (&site.tls, site.http2) {
        (None, _) => "",
        (Some(_), false) => " ssl",
        (Some(_), true) => " ssl http2",
    };
    let _ = write!(
        text,
        "  log_format line '$request_method $request_uri $server_protocol $status \
         $request_length';\n  \
         access_log {} line;\n  client_max_body_size {};\n  server {{\n    \
         listen {address}{options};\n",
        at("requests"),
        site.body_limit
    );
    if let Some(pair) = &site.tls {
        let (certificate, key) = (pair.certificate.display(), pair.key.display());
        let _ =
            write!(text, "    ssl_certificate {certificate};\n    ssl_certificate_key {key};\n");
    }
    if let Some(protocols) = site.protocols {
        let _ = writeln!(text, "    ssl_protocols {protocols};");
    }
    if let Some(file) = &site.clients {
        let file = file.display();
        let _ = write!(text, "    ssl_client_certificate {file};\n    ssl_verify_client on;\n");
    }
    let _ = write!(
        text,
        "    location / {{\n      proxy_pass http://{};\n      proxy_http_version 1.1;\n      \
         proxy_set_header Host $http_host;\n      \
         proxy_set_header X-Forwarded-Proto $scheme;\n    }}\n  }}\n}}\n",
        site.registry
    );
    text
}
