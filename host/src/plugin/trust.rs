//! Which plugin files may be used at all, by who could change them.
//!
//! A library runs with all the user's rights, so it may only come from those who have these rights
//! anyway: the user, root, and whoever owns the program itself. Nobody else may be able to write to
//! the file, or to put another one in its place: the directory it is in is checked the same way,
//! where the sticky bit makes up for write permission. Directories further up are not checked, as
//! sudo does not for its own plugins; some distributions let a group write to `/usr/local`.
//!
//! A group that has no members but the owner (a "user private group", the default of several
//! distributions together with umask 002) does not count as others.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use diolkos_sdk::{Error, ErrorKind, Result, ResultExt};

use super::Origin;

const GROUP_WRITE: u32 = 0o020;
const OTHER_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Who is trusted with plugin files.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The effective user of this process.
    user: u32,
    /// The owner of the program's own file.
    program_owner: Option<u32>,
    /// The number that stands for every owner that a user namespace does not know.
    unmapped: u32,
}

impl Trust {
    /// Finds out about this process.
    pub fn current() -> Self {
        let program = std::env::current_exe().and_then(std::fs::metadata);
        let unmapped = std::fs::read_to_string("/proc/sys/kernel/overflowuid");
        Self {
            user: rustix::process::geteuid().as_raw(),
            program_owner: program.ok().map(|metadata| metadata.uid()),
            unmapped: unmapped.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(65534),
        }
    }

    /// Checks a manifest or library and the directory it is in, links resolved and not.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] with the file, the reason and what to do; [`ErrorKind::NotFound`] and
    /// others when the file cannot be looked at.
    pub fn check(&self, path: &Path, origin: Origin) -> Result<()> {
        let cannot = || format!("cannot look at `{}`", path.display());
        let real = std::fs::canonicalize(path).context(cannot)?;
        let mut paths = vec![real.clone()];
        paths.extend(real.parent().map(PathBuf::from));
        let shown = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        paths.extend(shown.map(PathBuf::from));
        paths.iter().try_for_each(|path| self.check_one(path, origin))
    }

    fn check_one(&self, path: &Path, origin: Origin) -> Result<()> {
        let metadata =
            std::fs::metadata(path).context(|| format!("cannot look at `{}`", path.display()))?;
        let facts = Facts {
            owner: metadata.uid(),
            mode: metadata.mode(),
            is_dir: metadata.is_dir(),
            private_group: || is_private_group(metadata.gid(), metadata.uid()),
        };
        let kind = if facts.is_dir { "directory" } else { "file" };
        let refuse = |problem: String, hint: String| {
            let message = format!("refused: {kind} `{}` {problem}", path.display());
            Err(Error::new(ErrorKind::Denied, message).with_hint(hint))
        };
        match self.judge(&facts, origin) {
            Verdict::Fine => Ok(()),
            Verdict::Writable { by } => refuse(
                format!("can be written to by {by}"),
                format!("run `chmod go-w {}` if you trust its content", path.display()),
            ),
            Verdict::Foreign => refuse(
                format!("belongs to another user (uid {})", facts.owner),
                format!("let `{}` belong to you or to root if you trust it", path.display()),
            ),
        }
    }

    fn judge<P: Fn() -> bool>(&self, facts: &Facts<P>, origin: Origin) -> Verdict {
        let owns_program = self.program_owner == Some(facts.owner)
            // Many users may hide behind this number; where root installs things, it is root.
            && (facts.owner != self.unmapped || origin.is_installed());
        if facts.owner != 0 && facts.owner != self.user && !owns_program {
            return Verdict::Foreign;
        }
        if facts.is_dir && facts.mode & STICKY != 0 {
            return Verdict::Fine;
        }
        if facts.mode & OTHER_WRITE != 0 {
            return Verdict::Writable { by: "everybody" };
        }
        if facts.mode & GROUP_WRITE != 0 && !(facts.private_group)() {
            return Verdict::Writable { by: "its group" };
        }
        Verdict::Fine
    }
}

struct Facts<P> {
    owner: u32,
    mode: u32,
    is_dir: bool,
    private_group: P,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    Writable { by: &'static str },
    Foreign,
}

/// Tells whether nobody but `owner` is in the group. Users known only to a directory service are
/// not seen, so a group that is not in the files never counts as private.
fn is_private_group(group: u32, owner: u32) -> bool {
    if group == 0 && owner == 0 {
        return true;
    }
    let (Ok(users), Ok(groups)) =
        (std::fs::read_to_string("/etc/passwd"), std::fs::read_to_string("/etc/group"))
    else {
        return false;
    };
    group_has_only(&users, &groups, group, owner)
}

/// # Source
/// passwd(5), group(5).
fn group_has_only(users: &str, groups: &str, group: u32, owner: u32) -> bool {
    let field = |line: &'_ str, index: usize| line.split(':').nth(index).map(str::to_owned);
    let number = |line: &'_ str, index| field(line, index).and_then(|text| text.parse().ok());
    let Some(owner_name) =
        users.lines().find(|line| number(line, 2) == Some(owner)).and_then(|line| field(line, 0))
    else {
        return false;
    };
    let Some(members) =
        groups.lines().find(|line| number(line, 2) == Some(group)).and_then(|line| field(line, 3))
    else {
        return false;
    };
    let only_owner_listed =
        members.split(',').all(|name| name.trim().is_empty() || name.trim() == owner_name);
    let only_owner_primary = users
        .lines()
        .filter(|line| number(line, 3) == Some(group))
        .all(|line| number(line, 2) == Some(owner));
    only_owner_listed && only_owner_primary
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const TRUST: Trust = Trust { user: 1000, program_owner: Some(700), unmapped: 65534 };

    fn judge(owner: u32, mode: u32) -> Verdict {
        let facts = Facts { owner, mode, is_dir: false, private_group: || false };
        TRUST.judge(&facts, Origin::UserData)
    }

    #[test]
    fn files_of_the_user_of_root_and_of_the_programs_owner_are_trusted() {
        for owner in [0, 1000, 700] {
            assert_eq!(judge(owner, 0o644), Verdict::Fine);
        }
        assert_eq!(judge(1001, 0o644), Verdict::Foreign);
    }

    #[test]
    fn files_that_others_can_write_to_are_not() {
        assert_eq!(judge(1000, 0o646), Verdict::Writable { by: "everybody" });
        assert_eq!(judge(1000, 0o664), Verdict::Writable { by: "its group" });
        let facts = Facts { owner: 1000, mode: 0o664, is_dir: false, private_group: || true };
        assert_eq!(TRUST.judge(&facts, Origin::UserData), Verdict::Fine);
    }

    #[test]
    fn the_sticky_bit_makes_up_for_a_writable_directory_but_not_for_a_file() {
        let judge = |is_dir| {
            let facts = Facts { owner: 0, mode: 0o1777, is_dir, private_group: || false };
            TRUST.judge(&facts, Origin::UserData)
        };
        assert_eq!(judge(true), Verdict::Fine);
        assert_eq!(judge(false), Verdict::Writable { by: "everybody" });
    }

    #[test]
    fn in_a_user_namespace_unknown_owners_are_trusted_only_where_root_installs() {
        let inside = Trust { user: 0, program_owner: Some(65534), unmapped: 65534 };
        let facts = Facts { owner: 65534, mode: 0o644, is_dir: false, private_group: || false };
        assert_eq!(inside.judge(&facts, Origin::System), Verdict::Fine);
        assert_eq!(inside.judge(&facts, Origin::Flag), Verdict::Foreign);
    }

    #[test]
    fn a_group_is_private_only_if_nobody_else_is_in_it() {
        let users = "root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:\n";
        let groups = "root:x:0:\nann:x:1000:\nbob:x:1001:ann\nteam:x:50:ann,bob\n";
        assert!(group_has_only(users, groups, 1000, 1000));
        assert!(!group_has_only(users, groups, 1001, 1001), "ann is in bob's group");
        assert!(!group_has_only(users, groups, 50, 1000));
        assert!(!group_has_only(users, groups, 77, 1000), "unknown group");
        assert!(!group_has_only(users, groups, 1000, 1001), "of another user");
    }

    #[test]
    fn a_writable_file_is_refused_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("demo.toml");
        std::fs::write(&path, "").unwrap();
        let trust = Trust::current();
        trust.check(&path, Origin::Flag).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        let error = trust.check(&path, Origin::Flag).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.hint().unwrap().contains("chmod go-w"), "{error}");
    }
}
