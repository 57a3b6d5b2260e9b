//! Everything odd about uploads: how they break off, and what is refused.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::*;

/// Begins an upload and returns where it is.
fn begin(registry: &Registry) -> String {
    let answer = ask(registry, "POST", "/v2/r/blobs/uploads/");
    answer.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap().to_owned()
}

#[test]
fn what_arrived_of_an_upload_is_kept() {
    let registry = Registry::start().unwrap();
    let upload = begin(&registry);
    registry.inject("PATCH", "/uploads/", 1, Fault::CutBody(4));
    assert_eq!(talk(&registry, &format!("PATCH {upload} HTTP/1.1"), b"0123456789"), "");
    let so_far = ask(&registry, "GET", &upload);
    assert!(so_far.starts_with("HTTP/1.1 204") && so_far.contains("Range: 0-3\r\n"), "{so_far}");
    let patch = |range: &str, bytes: &[u8]| {
        talk(&registry, &format!("PATCH {upload} HTTP/1.1\r\nContent-Range: {range}"), bytes)
    };
    let wrong = patch("0-9", b"0123456789");
    assert!(wrong.starts_with("HTTP/1.1 416") && wrong.contains("Range: 0-3\r\n"), "{wrong}");
    assert!(patch("4-9", b"456789").contains("Range: 0-9\r\n"));
    let digest = sha256(b"0123456789");
    let done = ask(&registry, "PUT", &format!("{upload}?digest={digest}"));
    assert!(done.starts_with("HTTP/1.1 201"), "{done}");
    let ranges: Vec<_> = registry
        .requests_of("PATCH", "")
        .iter()
        .map(|one| (one.status, one.header("content-range").map(str::to_owned), one.received))
        .collect();
    let range = |text: &str| Some(text.to_owned());
    assert_eq!(ranges, [(0, None, 4), (416, range("0-9"), 10), (202, range("4-9"), 6)]);
}

#[test]
fn an_answer_may_be_lost_after_the_deed() {
    let registry = Registry::start().unwrap();
    let upload = begin(&registry);
    let digest = sha256(b"done");
    registry.inject("PUT", "/uploads/", 1, Fault::LoseAnswer);
    assert_eq!(talk(&registry, &format!("PUT {upload}?digest={digest} HTTP/1.1"), b"done"), "");
    assert!(registry.blob("r", &digest).is_some());
    assert!(ask(&registry, "GET", &upload).contains("BLOB_UPLOAD_UNKNOWN"));
}

#[test]
fn a_client_that_goes_away_leaves_what_it_sent_or_nothing_at_all() {
    let registry = Registry::start().unwrap();
    let send_half = |upload: &str| {
        let mut stream = TcpStream::connect(registry.listener.address()).unwrap();
        write!(stream, "PATCH {upload} HTTP/1.1\r\nContent-Length: 10\r\n\r\n01234").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    };
    let kept = begin(&registry);
    send_half(&kept);
    assert!(ask(&registry, "GET", &kept).contains("Range: 0-4\r\n"));
    registry.always("PATCH", "/uploads/", Fault::ForgetUpload);
    let forgotten = begin(&registry);
    send_half(&forgotten);
    assert!(ask(&registry, "GET", &forgotten).contains("BLOB_UPLOAD_UNKNOWN"));
    assert_eq!(registry.received(), 10);
}

#[test]
fn large_bodies_are_refused_before_they_are_read() {
    let registry = Registry::start().unwrap();
    registry.always("", "", Fault::LimitBody(100));
    let upload = begin(&registry);
    let answer = talk(&registry, &format!("PATCH {upload} HTTP/1.1"), &[0; 101]);
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("<html>"), "{answer}");
    assert_eq!(registry.received(), 0);
    let answer = talk(&registry, &format!("PATCH {upload} HTTP/1.1"), &[0; 100]);
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    // The same for a length that is not known beforehand.
    let mut stream = TcpStream::connect(registry.listener.address()).unwrap();
    write!(stream, "PATCH {upload} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    write!(stream, "40\r\n{0}\r\n40\r\n{0}\r\n", "x".repeat(64)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[test]
fn early_answers_do_not_wait_for_the_body() {
    let registry = Registry::start().unwrap();
    let upload = begin(&registry);
    let answer = Answer::error(503, "UNAVAILABLE").early();
    registry.inject("PATCH", "/uploads/", 1, Fault::Answer(answer));
    let mut stream = TcpStream::connect(registry.listener.address()).unwrap();
    write!(stream, "PATCH {upload} HTTP/1.1\r\nContent-Length: 1000\r\n\r\nx").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
}

#[test]
fn uploads_are_read_at_the_given_rate() {
    let registry = Registry::start().unwrap();
    let upload = begin(&registry);
    registry.inject("PATCH", "/uploads/", 1, Fault::SlowIntake(1000));
    let start = Instant::now();
    talk(&registry, &format!("PATCH {upload} HTTP/1.1"), &[0; 300]);
    assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
}

#[test]
fn a_mount_may_be_ignored() {
    let registry = Registry::start().unwrap();
    let digest = registry.seed_blob("a", b"x".to_vec());
    let target = format!("/v2/b/blobs/uploads/?mount={digest}&from=a");
    registry.inject("POST", "mount=", 1, Fault::IgnoreMount);
    assert!(ask(&registry, "POST", &target).starts_with("HTTP/1.1 202"));
    assert!(ask(&registry, "POST", &target).starts_with("HTTP/1.1 201"));
}

#[test]
fn how_far_an_upload_got_is_known_once_its_connection_is_closed() {
    let registry = Registry::start().unwrap();
    let upload = begin(&registry);
    let mut slow = TcpStream::connect(registry.listener.address()).unwrap();
    let head = "HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 10";
    write!(slow, "PATCH {upload} {head}\r\n\r\n").unwrap();
    slow.read_exact(&mut [0; "HTTP/1.1 100 Continue\r\n\r\n".len()]).unwrap();
    slow.write_all(b"0123").unwrap();
    // Asked while the first request is still being read.
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&registry, "GET", &upload));
        std::thread::sleep(Duration::from_millis(100));
        drop(slow);
        asked.join().unwrap()
    });
    assert!(answer.contains("Range: 0-3\r\n"), "{answer}");
}

#[test]
fn whoever_wants_tls_is_told_that_there_is_none() {
    let registry = Registry::start().unwrap();
    let mut stream = TcpStream::connect(registry.listener.address()).unwrap();
    stream.write_all(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3]).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 400"), "{answer}");
}
