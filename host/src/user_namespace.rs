//! Becoming root in a user namespace of one's own, for storages whose files have many owners.
//!
//! An ordinary user may own files of other users only in a user namespace to which the system gives
//! that user a range of IDs (`/etc/subuid`, `/etc/subgid`). The program enters one before it does
//! anything else, when a transport is named that says it needs it (`user-namespace` in its
//! plugin.toml), and then begins anew in it. As which user it began stands in the environment, as
//! podman and buildah have it, so that they and this program find the same store.
//!
//! IDs can only be mapped from outside: by a second process of this program, which runs the
//! system's `newuidmap` and `newgidmap` and ends.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};

use diolkos_sdk::{Error, ErrorKind, Result};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, User, setresgid, setresuid};

use crate::plugin::{Environment, Transports};

/// The capability of transports that need it.
const CAPABILITY: &str = "user-namespace";
/// The argument that makes a process the second one: the first one's ID and both maps follow it.
const MAPPER: &str = "--map-ids-of-process";
/// Where the system says which IDs a user may have besides their own.
const RANGES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

/// Tells whether a command line needs a user namespace that the process does not have.
pub fn is_needed(args: &[OsString], transports: &Transports) -> bool {
    if Uid::effective().is_root() {
        return false;
    }
    let needing: Vec<(&str, &str)> = transports
        .usable()
        .filter(|(transport, _)| transport.can(CAPABILITY))
        .map(|(transport, plugin)| (transport.name.as_str(), plugin.name.as_str()))
        .collect();
    let is_check = args.iter().any(|arg| arg == "check");
    args.iter().skip(1).filter_map(|arg| arg.to_str()).any(|arg| {
        let value =
            if arg.starts_with('-') { arg.split_once('=').map_or("", |it| it.1) } else { arg };
        let named = value.split_once(':').map_or("", |(name, _)| name);
        needing.iter().any(|(transport, plugin)| {
            *transport == named || is_check && (value == *plugin || value == *transport)
        })
    })
}

/// Begins the program anew in a user namespace; comes back only with an error.
///
/// Called while there is one thread.
///
/// # Errors
/// [`ErrorKind::Denied`] where the system forbids it, with what to do.
pub fn enter(args: &[OsString], warn: impl Fn(&str)) -> Error {
    match entered(args, warn) {
        Ok(never) => match never {},
        Err(error) => error.context("cannot enter a user namespace"),
    }
}

fn entered(args: &[OsString], warn: impl Fn(&str)) -> Result<std::convert::Infallible> {
    let program =
        env::current_exe().map_err(|error| Error::io("cannot find this program", error))?;
    let (uid, gid) = (Uid::current(), Gid::current());
    let ranges = RANGES.map(|file| ranges_of(file, uid));
    let mapper = if let [Some(uids), Some(gids)] = &ranges {
        Some(Mapper::start(&program, [map(uid.as_raw(), uids), map(gid.as_raw(), gids)])?)
    } else {
        None
    };
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| forbidden(error.into()))?;
    if let Some(mapper) = mapper {
        mapper.map()?;
    } else {
        warn(
            "the system gives this user no further IDs (/etc/subuid, /etc/subgid): only files of \
             one owner can be kept",
        );
        map_alone(uid, gid).map_err(forbidden)?;
    }
    let root = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(root.1, root.1, root.1)
        .and_then(|()| setresuid(root.0, root.0, root.0))
        .map_err(|error| Error::io("cannot become root in it", error.into()))?;
    let (name, rest) = args
        .split_first()
        .map_or((OsStr::new("diolkos"), &[][..]), |(name, rest)| (name.as_os_str(), rest));
    let error = Command::new(&program)
        .arg0(name)
        .args(rest)
        .env("_CONTAINERS_USERNS_CONFIGURED", "done")
        .env("_CONTAINERS_ROOTLESS_UID", uid.to_string())
        .env("_CONTAINERS_ROOTLESS_GID", gid.to_string())
        .exec();
    Err(Error::io("cannot begin anew in it", error))
}

/// Returns what a file with ranges of IDs gives to a user: where each begins, and how many; `None`
/// for nothing.
///
/// # Source
/// subuid(5).
fn ranges_of(file: &str, uid: Uid) -> Option<Vec<(u32, u32)>> {
    let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
    let text = fs::read_to_string(file).ok()?;
    let ranges = parse_ranges(&text, &[name.unwrap_or_default(), uid.to_string()]);
    (!ranges.is_empty()).then_some(ranges)
}

fn parse_ranges(text: &str, names: &[String]) -> Vec<(u32, u32)> {
    let lines = text.lines().filter_map(|line| {
        let mut parts = line.trim().split(':');
        let (name, first, count) = (parts.next()?, parts.next()?, parts.next()?);
        let range = (first.parse().ok()?, count.parse().ok()?);
        names.iter().any(|it| !it.is_empty() && it == name).then_some(range)
    });
    lines.filter(|(_, count)| *count > 0).collect()
}

/// Returns the arguments of newuidmap and newgidmap: who one is becomes 0, the ranges follow.
fn map(own: u32, ranges: &[(u32, u32)]) -> String {
    let mut words = vec![0, own, 1];
    let mut next = 1_u32;
    for (first, count) in ranges {
        words.extend([next, *first, *count]);
        next = next.saturating_add(*count);
    }
    words.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

/// Maps the one ID that needs nobody's leave.
fn map_alone(uid: Uid, gid: Gid) -> std::io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// The second process, which waits until this one has its namespace.
struct Mapper(std::process::Child);

impl Mapper {
    fn start(program: &std::path::Path, maps: [String; 2]) -> Result<Self> {
        Command::new(program)
            .arg(MAPPER)
            .arg(std::process::id().to_string())
            .args(maps)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map(Self)
            .map_err(|error| Error::io("cannot start a second process", error))
    }

    fn map(mut self) -> Result<()> {
        let io = |error| Error::io("cannot speak to the second process", error);
        self.0.stdin.take().expect("it is piped").write_all(b"!").map_err(io)?;
        let mut said = String::new();
        self.0.stderr.take().expect("it is piped").read_to_string(&mut said).map_err(io)?;
        if self.0.wait().map_err(io)?.success() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Denied, said.trim().to_owned()).with_hint(
            "newuidmap and newgidmap must be installed with their privileges (Debian: `apt install \
             uidmap`), and the ranges in /etc/subuid and /etc/subgid must be this user's alone",
        ))
    }
}

/// Tells whether this is the second process. One that runs with raised privileges never is: what it
/// is told to run would run with them.
pub fn is_mapper(args: &[OsString]) -> bool {
    args.get(1).is_some_and(|arg| arg == MAPPER) && !Environment::current().elevated
}

/// Does the second process's work.
pub fn map_ids(args: &[OsString]) -> ExitCode {
    // It begins when it is told to, and not at all if the other process is gone.
    let mut told = [0];
    if std::io::stdin().read_exact(&mut told).is_err() {
        return ExitCode::FAILURE;
    }
    let mut args = args.iter().skip(2).map(|arg| arg.to_string_lossy());
    let pid = args.next().unwrap_or_default();
    for (program, map) in ["newuidmap", "newgidmap"].iter().zip(args) {
        let said = match Command::new(program).arg(&*pid).args(map.split(' ')).output() {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        let _ = writeln!(std::io::stderr(), "{program}: {}", said.trim());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Makes the error of a system that does not give namespaces to everybody, and says where.
fn forbidden(error: std::io::Error) -> Error {
    let number = |file: &str| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let hint = if number("/proc/sys/user/max_user_namespaces") == Some(0) {
        "the system allows none: `sysctl user.max_user_namespaces=15000` changes that"
    } else if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        "the system allows them to root alone: `sysctl kernel.unprivileged_userns_clone=1` changes that"
    } else if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        "AppArmor restricts them here: give this program a profile that allows `userns`, or run it as root"
    } else {
        "run it as root, or where user namespaces are allowed"
    };
    Error::new(ErrorKind::Denied, "the system does not allow it").with_source(error).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_user_by_name_or_number() {
        let text = "other:1:2\nme:100000:65536\n# comment\n1000:300000:10\nme:x:1\nme:5:0\n\n";
        let names = ["me".to_owned(), "1000".to_owned()];
        assert_eq!(parse_ranges(text, &names), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(parse_ranges(text, &[String::new()]), []);
    }

    #[test]
    fn the_user_becomes_root_and_the_ranges_follow() {
        assert_eq!(map(1000, &[(100_000, 65_536), (7, 3)]), "0 1000 1 1 100000 65536 65537 7 3");
    }
}
