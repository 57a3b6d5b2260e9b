//! The registry that most people run, started for the tests of a process.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// A running `docker-registry`; it ends when this process does.
pub struct Registry {
    pub host: String,
    log: Arc<Mutex<Vec<String>>>,
    // The shell around the registry waits for its input to end.
    _input: Mutex<ChildStdin>,
    _child: Mutex<Child>,
    _storage: tempfile::TempDir,
}

/// Returns the registry of this process, `None` (with a message) where none is installed.
///
/// # Panics
/// None is installed and `CI` is set: there, it must be tested.
pub fn registry() -> Option<&'static Registry> {
    static REGISTRY: OnceLock<Option<Registry>> = OnceLock::new();
    REGISTRY.get_or_init(start).as_ref()
}

fn program() -> Option<&'static str> {
    ["docker-registry", "registry"].into_iter().find(|name| {
        Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

fn start() -> Option<Registry> {
    let Some(program) = program() else {
        assert!(std::env::var_os("CI").is_none(), "docker-registry is not installed");
        let _ = writeln!(std::io::stderr(), "skipped: docker-registry is not installed");
        return None;
    };
    let storage = tempfile::tempdir().unwrap();
    let config = storage.path().join("config.yml");
    let root = storage.path().join("data");
    std::fs::write(
        &config,
        format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: false}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n",
            root.display()
        ),
    )
    .unwrap();
    // Reading ends when this process does, however it ends.
    let script = "\"$0\" serve \"$1\" 2>&1 & pid=$!; read line; kill $pid";
    let mut child = Command::new("sh")
        .args(["-c", script, program])
        .arg(&config)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("OTEL_TRACES_EXPORTER", "none")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = child.stdin.take().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let log = Arc::new(Mutex::new(Vec::new()));
    let (sender, receiver) = mpsc::channel();
    let lines = log.clone();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if let Some((_, rest)) = line.split_once("listening on ") {
                let host = rest.split(['"', ' ', ',']).next().unwrap_or_default();
                let _ = sender.send(host.to_owned());
            }
            lines.lock().unwrap().push(line);
        }
    });
    let host = receiver.recv_timeout(Duration::from_secs(30)).unwrap_or_else(|_| {
        panic!("docker-registry does not start:\n{}", log.lock().unwrap().join("\n"))
    });
    Some(Registry {
        host,
        log,
        _input: Mutex::new(input),
        _child: Mutex::new(child),
        _storage: storage,
    })
}

impl Registry {
    /// Returns method and status of the requests to a repository so far, waiting for `count`.
    pub fn requests(&self, repository: &str, count: usize) -> Vec<String> {
        let path = format!("/v2/{repository}/");
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let found: Vec<String> = self
                .log
                .lock()
                .unwrap()
                .iter()
                .filter_map(|line| {
                    // The common log format: … "METHOD TARGET PROTOCOL" STATUS …
                    let (_, rest) = line.split_once("] \"")?;
                    let (request, rest) = rest.split_once('"')?;
                    let (method, target) = request.split_once(' ')?;
                    let status = rest.split_ascii_whitespace().next()?;
                    target.starts_with(&path).then(|| format!("{method} {status}"))
                })
                .collect();
            if found.len() >= count || Instant::now() > end {
                return found;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
