//! Reading an image: what `docker save` sends, kept in a temporary file.
//!
//! It is one archive with everything, and what it consists of stands at its end. Asking twice would
//! spare the file, but a daemon makes a copy of the whole image before it sends the first byte.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use diolkos_formats::docker_archive::{ArchiveSource, Choice, Image, Images};
use diolkos_formats::files::{failed, no_room};
use diolkos_formats::tar::TarFile;
use diolkos_sdk::{Error, ErrorKind, Platform, PlatformChoice, Result, Session};
use reqwest::Method;
use serde_json::json;

use crate::client::{Daemon, WITH_PLATFORM};
use crate::destination::Message;
use crate::reference::DaemonRef;

/// How many of the last bytes may tell what went wrong.
const TAIL: usize = 4 << 10;

/// Has an image sent, and opens it.
///
/// # Errors
/// The daemon's own, when it has no such image or fails on the way; [`ErrorKind::Io`] when there is
/// no room for it in the directory for temporary files.
pub(crate) fn open(daemon: &Daemon, image: &DaemonRef, session: &Session) -> Result<ArchiveSource> {
    let loading = |error: Error| error.context("loading image from docker engine");
    let directory = &session.temp_dir;
    let mut file = tempfile::tempfile_in(directory)
        .map_err(|error| failed("create a file in", directory, error))?;
    let saving = save(daemon, image, &session.platform, directory, &mut file);
    let tail = daemon.runtime().block_on(daemon.host(), saving).map_err(loading)?;
    let opened = find(file, image);
    opened
        .map_err(|error| match words(&tail) {
            // The daemon failed after it had begun to send, and said so at the end.
            Some(words) => {
                let message = format!("docker engine reported: {words:?}");
                loading(Error::new(ErrorKind::Unavailable, message))
            }
            None => loading(error),
        })
        .map(|(tar, image)| ArchiveSource::new(tar, image, session.host.clone()))
}

fn find(file: File, image: &DaemonRef) -> Result<(TarFile, Image)> {
    let tar = TarFile::new(Path::new(&format!("docker-daemon:{}", image.text())), file)?;
    // What an archive's user may do about it is nothing here.
    let hint = "the daemon is no Docker, or has several images of that name: try --override-arch";
    let image = Images::read(&tar)
        .and_then(|images| images.find(&Choice::Only))
        .map_err(|error| error.with_hint(hint))?;
    Ok((tar, image))
}

/// Writes what the daemon sends into a file, and returns the last bytes of it.
async fn save(
    daemon: &Daemon,
    image: &DaemonRef,
    platform: &PlatformChoice,
    directory: &Path,
    file: &mut File,
) -> Result<Vec<u8>> {
    let name = image.text();
    let mut query = vec![("names", name.as_str())];
    let platform = chosen(platform);
    let knows_platforms = daemon.version().await? >= WITH_PLATFORM;
    if let Some(platform) = platform.as_deref().filter(|_| knows_platforms) {
        query.push(("platform", platform));
    }
    let request = daemon.versioned(Method::GET, "/images/get", &query).await?;
    let mut response = daemon.checked(daemon.sent(request).await?).await?;
    let mut tail = Vec::new();
    loop {
        let chunk = response.chunk().await.map_err(|error| daemon.unanswered(&error))?;
        let Some(chunk) = chunk else { return Ok(tail) };
        file.write_all(&chunk).map_err(|error| no_room(directory, error))?;
        let last = &chunk[chunk.len().saturating_sub(TAIL)..];
        tail.extend_from_slice(last);
        tail.drain(..tail.len().saturating_sub(TAIL));
    }
}

/// Returns the platform that the user chose, as the daemon takes it; `None` for no choice.
fn chosen(platform: &PlatformChoice) -> Option<String> {
    let PlatformChoice { os, architecture, variant } = platform;
    if os.is_none() && architecture.is_none() && variant.is_none() {
        return None;
    }
    let mut value = json!({
        "os": os.as_deref().unwrap_or_else(|| Platform::host_os()),
        "architecture": architecture.as_deref().unwrap_or_else(|| Platform::host_architecture()),
    });
    if let Some(variant) = variant {
        value["variant"] = variant.as_str().into();
    }
    Some(value.to_string())
}

/// Finds what a daemon said at the end of something that is no whole archive.
fn words(tail: &[u8]) -> Option<String> {
    let start = tail.windows(2).rposition(|pair| pair == b"{\"")?;
    // The object may hold another one.
    let all = (0..=start).rev().filter(|at| tail[*at..].starts_with(b"{\""));
    all.filter_map(|at| serde_json::from_slice::<Message>(&tail[at..]).ok())
        .find_map(Message::error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_daemon_says_behind_half_an_archive_is_found() {
        let said = br#"{"errorDetail":{"message":"no space left"},"error":"no space left"}"#;
        for before in [&b""[..], b"\0\0\0", b"{\"a\":", &[7; 100]] {
            let mut tail = before.to_vec();
            tail.extend_from_slice(said);
            assert_eq!(words(&tail).as_deref(), Some("no space left"));
            tail.extend_from_slice(b"\r\n");
            assert_eq!(words(&tail).as_deref(), Some("no space left"));
        }
        for nothing in [&b""[..], b"{\"", b"{\"stream\":\"x\"}", &[0; 512]] {
            assert_eq!(words(nothing), None);
        }
    }

    #[test]
    fn a_platform_is_named_only_if_the_user_did() {
        assert_eq!(chosen(&PlatformChoice::default()), None);
        let choice = PlatformChoice { architecture: Some("arm64".into()), ..Default::default() };
        let text = chosen(&choice).unwrap();
        assert!(text.contains(r#""architecture":"arm64""#) && text.contains(r#""os":""#), "{text}");
    }
}
