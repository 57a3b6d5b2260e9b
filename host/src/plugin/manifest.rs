//! The manifest beside a plugin's library: what it provides and which options that brings.
//!
//! Keys that this version does not know are left alone, so that newer plugins may say more;
//! whatever would change what the command line means (an option's type, its flag) is checked
//! strictly.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use diolkos_sdk::{Error, ErrorKind, Result, ResultExt};
use serde::{Deserialize, Serialize};
use toml::de::{DeTable, Deserializer};

/// The version of the manifest format that this program reads.
pub const MANIFEST_VERSION: u32 = 1;

/// The largest manifest that is read, in bytes.
const MAX_SIZE: u64 = 1024 * 1024;

/// A plugin's manifest, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// The plugin's name, which is also the name of the file.
    pub name: String,
    /// The plugin's version.
    pub version: String,
    /// Who publishes it.
    #[serde(default)]
    pub publisher: String,
    /// What it is, in a line.
    #[serde(default)]
    pub description: String,
    /// Its licence, an SPDX expression.
    #[serde(default)]
    pub license: String,
    /// The plugin ABI it was built for, `major.minor`.
    pub abi: String,
    /// The library's file, relative to the manifest.
    pub library: PathBuf,
    /// SHA-256 of the library in hexadecimal digits, if it is to be checked before loading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The transports it provides.
    #[serde(rename = "transport", default)]
    pub transports: Vec<TransportManifest>,
}

/// One transport of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TransportManifest {
    /// What stands before the first colon of an image name.
    pub name: String,
    /// The shape of an image name, in one line.
    pub syntax: String,
    /// What an image of this transport is, in a few words.
    #[serde(default)]
    pub summary: String,
    /// Image names as a user might write them.
    #[serde(default)]
    pub examples: Vec<String>,
    /// What the transport can do; words that are not known are ignored.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// The options it takes.
    #[serde(rename = "option", default)]
    pub options: Vec<OptionManifest>,
}

impl TransportManifest {
    /// Tells whether the transport declares a capability.
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|it| it == capability)
    }
}

/// An option of a transport and the command-line flag it becomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OptionManifest {
    /// The option's name in the session that the transport gets.
    pub name: String,
    /// The type of its value.
    #[serde(rename = "type")]
    pub kind: OptionKind,
    /// What it does, for `--help`.
    #[serde(default)]
    pub help: String,
    /// The name of its value in `--help`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// For which side of a copy it is.
    #[serde(default = "both_sides")]
    pub sides: BTreeSet<Side>,
    /// The flag without its prefix; the option's name if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flag: Option<String>,
    /// Other whole flag names for the source in commands with two sides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_aliases: Vec<String>,
    /// Other whole flag names for the destination in commands with two sides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destination_aliases: Vec<String>,
    /// Options of the same side that may not be given together with this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
    /// The commands that have the flag; all that fit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands: Option<Vec<String>>,
    /// Commands that name no image, such as `login`, and have the flag too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further_commands: Vec<String>,
    /// Whether `--help` leaves it out.
    #[serde(default)]
    pub hidden: bool,
}

impl OptionManifest {
    /// Returns the flag's name without prefix and dashes.
    pub fn flag(&self) -> &str {
        self.flag.as_deref().unwrap_or(&self.name)
    }

    /// Tells whether `command` has the flag, as far as the manifest limits that.
    pub fn is_for(&self, command: &str) -> bool {
        self.commands.is_none() || self.names(command)
    }

    /// Tells whether the manifest names `command` for the flag.
    pub fn names(&self, command: &str) -> bool {
        self.commands.iter().flatten().chain(&self.further_commands).any(|it| it == command)
    }

    /// Tells whether every command has the flag.
    pub fn is_global(&self) -> bool {
        self.sides.iter().eq([&Side::Global])
    }
}

fn both_sides() -> BTreeSet<Side> {
    BTreeSet::from([Side::Source, Side::Destination])
}

/// The type of an option's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptionKind {
    /// True or false; the bare flag is true.
    Bool,
    /// Any text.
    String,
    /// The path of a file or directory.
    Path,
    /// A whole number.
    Integer,
    /// Several texts, separated by commas or given by repeating the flag.
    List,
}

/// Where an option applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The image that is read, and the only one of commands that name one image.
    Source,
    /// The image that is written.
    Destination,
    /// The whole program: a flag that every command has, passed to both sides. Together with a
    /// side: of the commands that have it, a flag without prefix that counts where the side's own
    /// is not given.
    Global,
}

impl Manifest {
    /// Reads and checks the manifest at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] with the file and what is wrong in it.
    pub fn read(path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path).context(|| cannot_read(path))?.len();
        if size > MAX_SIZE {
            return Err(broken(path, format!("it has {size} bytes, more than {MAX_SIZE}")));
        }
        let text = std::fs::read_to_string(path).context(|| cannot_read(path))?;
        Self::parse(&text, path)
    }

    /// Parses and checks the text of the manifest at `path`.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            manifest_version: u32,
        }
        let wrong = |error| syntax(path, text, &error);
        let table = DeTable::parse(text).map_err(wrong)?;
        let version = Version::deserialize(Deserializer::from(table.clone())).map_err(wrong)?;
        if version.manifest_version != MANIFEST_VERSION {
            return Err(broken(
                path,
                format!(
                    "its format is version {}, and this program reads version {MANIFEST_VERSION}",
                    version.manifest_version
                ),
            )
            .with_hint("install the version of the plugin that belongs to this diolkos"));
        }
        let manifest = Self::deserialize(Deserializer::from(table)).map_err(wrong)?;
        manifest.check(path).map_err(|why| broken(path, why))?;
        Ok(manifest)
    }

    /// Returns the major and minor number of the ABI the plugin was built for; 0.0, which there
    /// never was, if a manifest that nobody checked says nonsense.
    pub fn abi_version(&self) -> (u32, u32) {
        parse_abi(&self.abi).unwrap_or_default()
    }

    /// Returns the transport with this name.
    pub fn transport(&self, name: &str) -> Option<&TransportManifest> {
        self.transports.iter().find(|transport| transport.name == name)
    }

    fn check(&self, path: &Path) -> Result<(), String> {
        check_name("name", &self.name)?;
        let stem = path.file_stem().unwrap_or_default();
        if stem != self.name.as_str() {
            return Err(format!(
                "its `name` is `{}`, which its file must be called too",
                self.name
            ));
        }
        for text in [&self.version, &self.publisher, &self.description, &self.license] {
            check_text(text)?;
        }
        if parse_abi(&self.abi).is_none() {
            return Err(format!("`abi` is `MAJOR.MINOR`, not `{}`", self.abi.escape_debug()));
        }
        if self.library.as_os_str().is_empty() {
            return Err("`library` is empty".into());
        }
        check_text(&self.library.to_string_lossy())?;
        if let Some(hex) = &self.sha256
            && (hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err("`sha256` is not 64 hexadecimal digits".into());
        }
        if self.transports.is_empty() {
            return Err("it has no `[[transport]]`".into());
        }
        let mut names = BTreeSet::new();
        for transport in &self.transports {
            if !names.insert(&transport.name) {
                return Err(format!("transport `{}` is there twice", transport.name));
            }
            transport.check().map_err(|why| format!("transport `{}`: {why}", transport.name))?;
        }
        Ok(())
    }
}

impl TransportManifest {
    fn check(&self) -> Result<(), String> {
        check_name("name", &self.name)?;
        check_text(&self.syntax)?;
        check_text(&self.summary)?;
        self.examples.iter().try_for_each(|example| check_text(example))?;
        let mut names = BTreeSet::new();
        for option in &self.options {
            if !names.insert(option.name.as_str()) {
                return Err(format!("option `{}` is there twice", option.name));
            }
        }
        for option in &self.options {
            option.check(&names).map_err(|why| format!("option `{}`: {why}", option.name))?;
        }
        Ok(())
    }
}

impl OptionManifest {
    fn check(&self, names: &BTreeSet<&str>) -> Result<(), String> {
        check_name("name", &self.name)?;
        check_text(&self.help)?;
        check_text(self.value.as_deref().unwrap_or_default())?;
        let aliases = self.source_aliases.iter().chain(&self.destination_aliases);
        for flag in std::iter::once(self.flag()).chain(aliases.map(String::as_str)) {
            check_name("flag", flag)?;
        }
        if self.sides.is_empty() {
            return Err("`sides` is empty".into());
        }
        match self.conflicts.iter().find(|name| !names.contains(name.as_str())) {
            Some(unknown) => Err(format!("`conflicts` names `{unknown}`, which is no option")),
            None => Ok(()),
        }
    }
}

fn parse_abi(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Names become flags, file names and parts of image names.
fn check_name(key: &str, name: &str) -> Result<(), String> {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    let fits = bytes.first().is_some_and(|b| word(*b))
        && bytes.len() <= 64
        && bytes.iter().all(|b| word(*b) || matches!(b, b'-' | b'.' | b'_'));
    if fits {
        return Ok(());
    }
    Err(format!(
        "`{key}` is `{}`; it is made of lower-case letters, digits, `-`, `.` and `_`, and begins \
         with a letter or digit",
        name.escape_debug()
    ))
}

/// Texts are shown on terminals, so they must not command them.
fn check_text(text: &str) -> Result<(), String> {
    match text.chars().find(|c| c.is_control() && *c != '\n') {
        Some(_) => Err(format!("the text `{}` has control characters", text.escape_debug())),
        None => Ok(()),
    }
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read plugin manifest `{}`", path.display())
}

fn broken(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        format!("plugin manifest `{}` is broken: {why}", path.display()),
    )
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let message = error.message().replace('\n', ", ");
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) if !before.is_empty() => {
            let line = before.matches('\n').count() + 1;
            broken(path, format!("line {line}: {message}"))
        }
        _ => broken(path, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        manifest_version = 1
        name = "demo"
        version = "1.2.3"
        abi = "1.0"
        library = "libdemo.so"
        something-newer = { than = "this program" }

        [[transport]]
        name = "demo"
        syntax = "demo:PATH"
        capabilities = ["source", "teleport"]

        [[transport.option]]
        name = "creds"
        type = "string"
        flag = "login"
        source-aliases = ["screds"]
        conflicts = ["no-creds"]

        [[transport.option]]
        name = "no-creds"
        type = "bool"
        sides = ["source"]
        commands = ["copy"]
    "#;

    fn parse(text: &str) -> Result<Manifest> {
        Manifest::parse(text, Path::new("/p/demo.toml"))
    }

    fn refusal(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        parse(&GOOD.replace(from, to)).unwrap_err().to_string()
    }

    #[test]
    fn a_manifest_gives_transports_and_options_and_unknown_keys_are_left_alone() {
        let manifest = parse(GOOD).unwrap();
        assert_eq!(manifest.abi_version(), (1, 0));
        let transport = manifest.transport("demo").unwrap();
        assert!(transport.can("source") && transport.can("teleport") && !transport.can("tags"));
        let [creds, no_creds] = &transport.options[..] else { panic!("two options") };
        assert_eq!((creds.flag(), creds.kind), ("login", OptionKind::String));
        assert_eq!(creds.sides, both_sides());
        assert!(creds.is_for("inspect") && !no_creds.is_for("inspect") && no_creds.is_for("copy"));
    }

    #[test]
    fn a_broken_manifest_is_refused_with_the_place_and_the_reason() {
        for (from, to, expected) in [
            ("manifest_version = 1", "manifest_version = 2", "reads version 1"),
            ("manifest_version = 1", "", "manifest_version"),
            ("name = \"demo\"", "name = \"other\"", "its file must be called too"),
            ("name = \"demo\"", "name = \"../demo\"", "lower-case letters"),
            ("type = \"bool\"", "type = \"yesno\"", "unknown variant `yesno`"),
            ("type = \"bool\"", "", "missing field `type`"),
            ("sides = [\"source\"]", "sides = []", "`sides` is empty"),
            ("sides = [\"source\"]", "sides = [\"left\"]", "unknown variant `left`"),
            ("[\"no-creds\"]", "[\"nothing\"]", "names `nothing`"),
            ("name = \"no-creds\"", "name = \"creds\"", "is there twice"),
            ("abi = \"1.0\"", "abi = \"one\"", "`abi` is `MAJOR.MINOR`"),
            ("\"1.2.3\"", "\"1.2\\u001b[31m\"", "control characters"),
            ("library = \"libdemo.so\"", "library = \"\"", "`library` is empty"),
        ] {
            let message = refusal(from, to);
            assert!(message.contains("/p/demo.toml"), "{message}");
            assert!(message.contains(expected), "{message} lacks {expected}");
        }
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let message = parse("manifest_version = 1\nname = demo\n").unwrap_err().to_string();
        assert!(message.contains("line 2"), "{message}");
    }
}
