//! `install`: the tree that a package holds.
//!
//! Below the prefix: `bin/diolkos`, `lib/diolkos/plugins` with each plugin's library and
//! manifest, where the program looks first after its own directory, manual pages, completions,
//! the licence. `DESTDIR` goes in front of everything and into nothing that is installed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::{env, io};

use crate::shell::{self, Result};

/// Builds and installs below `prefix`.
pub fn run(prefix: &Path) -> Result<()> {
    let release = shell::build_release()?;
    let tree = Tree(root(prefix)?);
    tree.put(&release.join("diolkos"), "bin/diolkos", 0o755)?;
    for name in plugins()? {
        let library = format!("libdiolkos_{}.so", name.replace('-', "_"));
        for (file, mode) in [(format!("{name}.toml"), 0o644), (library, 0o644)] {
            let place = format!("lib/diolkos/plugins/{file}");
            tree.put(&release.join(&file), &place, mode)?;
        }
    }
    tree.put(&shell::workspace().join("LICENSE"), "share/doc/diolkos/LICENSE", 0o644)?;
    tree.generate()?;
    println!("installed in {}", tree.0.display());
    Ok(())
}

/// Where the files of a prefix go.
fn root(prefix: &Path) -> Result<PathBuf> {
    let prefix = std::path::absolute(prefix)?;
    let Some(destination) = env::var_os("DESTDIR").filter(|value| !value.is_empty()) else {
        return Ok(prefix);
    };
    Ok(std::path::absolute(destination)?.join(prefix.strip_prefix("/")?))
}

/// Returns the plugins of the workspace: the folders with a manifest.
fn plugins() -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(shell::workspace().join("plugins"))? {
        let entry = entry?;
        if entry.path().join("plugin.toml").exists() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

struct Tree(PathBuf);

impl Tree {
    /// Copies a file in, replacing an older one without touching what may be running of it.
    fn put(&self, source: &Path, place: &str, mode: u32) -> Result<()> {
        let path = self.0.join(place);
        make_directory(path.parent().expect("a place has a directory"))?;
        let temporary = path.with_extension("new");
        fs::copy(source, &temporary)
            .map_err(|error| format!("cannot install `{}`: {error}", source.display()))?;
        fs::set_permissions(&temporary, Permissions::from_mode(mode))?;
        fs::rename(&temporary, &path)?;
        Ok(())
    }

    /// Lets the installed program write its manual pages and completions.
    fn generate(&self) -> Result<()> {
        let program = self.0.join("bin/diolkos");
        let pages = self.0.join("share/man/man1");
        make_directory(&pages)?;
        let mut command = std::process::Command::new(&program);
        shell::output(command.args(["generate", "man"]).arg(&pages))?;
        for entry in fs::read_dir(&pages)? {
            fs::set_permissions(entry?.path(), Permissions::from_mode(0o644))?;
        }
        for (shell_name, place) in [
            ("bash", "share/bash-completion/completions/diolkos"),
            ("zsh", "share/zsh/site-functions/_diolkos"),
            ("fish", "share/fish/vendor_completions.d/diolkos.fish"),
        ] {
            let mut command = std::process::Command::new(&program);
            let text = shell::output(command.args(["completion", shell_name]))?;
            let path = self.0.join(place);
            make_directory(path.parent().expect("a place has a directory"))?;
            fs::write(&path, text)?;
            fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        }
        Ok(())
    }
}

/// Makes directories that everybody may enter, whatever the umask: the program refuses plugins
/// from ones that others may write to.
fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    fs::create_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}
