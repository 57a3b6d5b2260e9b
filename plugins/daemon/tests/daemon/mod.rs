//! As much of a Docker daemon as keeps what it is told to load, and saves it again.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use serde_json::Value;

/// Archives by the name of their image.
type Store = Mutex<BTreeMap<String, Vec<u8>>>;

/// Returns the address of the one daemon of this process.
pub fn host() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it was just bound");
        thread::spawn(move || {
            static STORE: Store = Mutex::new(BTreeMap::new());
            for stream in listener.incoming().flatten() {
                // A client that goes away is its own business.
                thread::spawn(move || drop(serve(&stream, &STORE)));
            }
        });
        format!("http://{address}")
    })
}

fn serve(stream: &TcpStream, store: &Store) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut head)? == 0 {
                return Ok(());
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let target = head.split_ascii_whitespace().nth(1).unwrap_or_default();
        let (status, body) = if target.ends_with("/_ping") {
            (200, b"OK".to_vec())
        } else if target.contains("/images/load") {
            (200, load(&chunks(&mut reader)?, store))
        } else {
            let name = target.rsplit('=').next().unwrap_or_default();
            let name = name.replace("%3A", ":").replace("%2F", "/");
            match store.lock().unwrap_or_else(PoisonError::into_inner).get(&name) {
                Some(archive) => (200, archive.clone()),
                None => (404, br#"{"message":"reference does not exist"}"#.to_vec()),
            }
        };
        let version = "Api-Version: 1.43";
        let length = body.len();
        let mut answer =
            format!("HTTP/1.1 {status} x\r\n{version}\r\nContent-Length: {length}\r\n\r\n")
                .into_bytes();
        answer.extend(body);
        (&mut &*stream).write_all(&answer)?;
    }
}

/// Reads a body in chunks to its end; one that breaks off is an error.
fn chunks(reader: &mut BufReader<&TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let count = reader.take(size).read_to_end(&mut body)?;
        reader.read_line(&mut line)?;
        match size {
            0 => return Ok(body),
            size if size == count as u64 => {}
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Keeps an archive under the names in its list; says what is wrong with it.
fn load(archive: &[u8], store: &Store) -> Vec<u8> {
    let answer = match names(archive) {
        Ok(names) => {
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            store.extend(names.iter().map(|name| (name.clone(), archive.to_vec())));
            serde_json::json!({"stream": format!("Loaded image: {names:?}\n")})
        }
        Err(error) => serde_json::json!({"errorDetail": {"message": error.to_string()}}),
    };
    format!("{answer}\r\n").into_bytes()
}

fn names(archive: &[u8]) -> io::Result<Vec<String>> {
    let mut members = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        members.insert(name, content);
    }
    let list = members.get("manifest.json").ok_or_else(|| io::Error::other("no manifest.json"))?;
    let list: Value = serde_json::from_slice(list)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let each = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let mut parts = each(&list[0]["Layers"]);
    parts.push(text(&list[0]["Config"]));
    if let Some(missing) = parts.iter().find(|part| !members.contains_key(*part)) {
        return Err(io::Error::other(format!("{missing} is missing")));
    }
    Ok(each(&list[0]["RepoTags"]))
}
