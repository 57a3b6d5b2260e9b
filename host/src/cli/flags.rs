//! Options of transports as flags of commands: declared in manifests, merged across plugins.
//!
//! A flag is identified by its long name. Several transports may declare the same flag (`tls-verify`
//! of more than one network transport): it exists once, and goes to whichever transport is named.

use std::collections::{BTreeMap, BTreeSet};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use diolkos_sdk::{Error, ErrorKind, Options, Result};

use super::values::{parse_bool, parse_int, split_list};
use crate::plugin::{OptionKind, OptionManifest, Side, TransportManifest};

/// A flag that plugins bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The long name, without dashes.
    pub long: String,
    /// Other long names.
    pub aliases: Vec<String>,
    /// The type of its value.
    pub kind: OptionKind,
    /// What it does.
    pub help: String,
    /// The name of its value in help.
    pub value: String,
    /// Whether help leaves it out.
    pub hidden: bool,
    /// The transports it is for.
    pub transports: Vec<String>,
}

/// Which images a command names, and so which flags it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Images {
    /// None; the command has the flags for which a manifest names it.
    None,
    /// One, whose options have no prefix.
    One,
    /// A source and a destination, with the prefixes `src-` and `dest-`.
    Two,
}

/// The flags that transports bring to a command, and what is wrong with some of them.
#[derive(Debug, Default)]
pub struct Flags {
    flags: BTreeMap<String, Flag>,
    /// Declarations that had to be left out, for `plugin list` and the debug log of the command.
    pub problems: Vec<String>,
}

impl Flags {
    /// Collects the flags of a command. `reserved` names are the host's own.
    pub fn of_command<'a>(
        command: &str,
        images: Images,
        transports: impl Iterator<Item = &'a TransportManifest>,
        reserved: &BTreeSet<String>,
    ) -> Self {
        let mut flags = Self::default();
        for (transport, option) in options(transports) {
            if !option.is_for(command) {
                continue;
            }
            for side in [Side::Source, Side::Destination] {
                if let Some(long) = long_flag(option, command, images, side) {
                    let aliases = match (images, side) {
                        (Images::Two, Side::Source) => option.source_aliases.clone(),
                        (Images::Two, _) => option.destination_aliases.clone(),
                        (Images::None | Images::One, _) => Vec::new(),
                    };
                    flags.add(&transport.name, option, long, aliases, reserved);
                }
            }
            if images == Images::Two && option.sides.contains(&Side::Global) && !option.is_global()
            {
                let long = option.flag().to_owned();
                flags.add(&transport.name, option, long, Vec::new(), reserved);
            }
        }
        flags
    }

    /// Collects the flags that every command has.
    pub fn global<'a>(
        transports: impl Iterator<Item = &'a TransportManifest>,
        reserved: &BTreeSet<String>,
    ) -> Self {
        let mut flags = Self::default();
        for (transport, option) in options(transports) {
            if option.is_global() {
                let long = option.flag().to_owned();
                flags.add(&transport.name, option, long, Vec::new(), reserved);
            }
        }
        flags
    }

    fn add(
        &mut self,
        transport: &str,
        option: &OptionManifest,
        long: String,
        aliases: Vec<String>,
        reserved: &BTreeSet<String>,
    ) {
        if let Some(flag) = self.flags.get_mut(&long) {
            if flag.kind != option.kind {
                self.problems.push(format!(
                    "--{long} of transport `{transport}` is left out: it has another type for `{}`",
                    flag.transports.join("`, `")
                ));
            } else if !flag.transports.iter().any(|it| it == transport) {
                flag.transports.push(transport.to_owned());
                flag.hidden &= option.hidden;
            }
            return;
        }
        if reserved.contains(&long) {
            self.problems.push(format!(
                "--{long} of transport `{transport}` is left out: the program has such a flag"
            ));
            return;
        }
        let taken = |alias: &String| {
            reserved.contains(alias)
                || self
                    .flags
                    .values()
                    .any(|flag| flag.long == *alias || flag.aliases.contains(alias))
        };
        let flag = Flag {
            aliases: aliases.into_iter().filter(|alias| *alias != long && !taken(alias)).collect(),
            kind: option.kind,
            help: option.help.clone(),
            value: option.value.clone().unwrap_or_else(|| value_name(option.kind).to_owned()),
            hidden: option.hidden,
            transports: vec![transport.to_owned()],
            long: long.clone(),
        };
        // A name that was another flag's alias belongs to the flag that is called so.
        for other in self.flags.values_mut() {
            other.aliases.retain(|alias| *alias != long);
        }
        self.flags.insert(long, flag);
    }

    /// Returns the flags by name.
    pub fn iter(&self) -> impl Iterator<Item = &Flag> {
        self.flags.values()
    }

    /// Adds the flags to a command.
    pub fn extend(&self, mut command: Command, heading: &'static str, global: bool) -> Command {
        for flag in self.flags.values() {
            let help =
                format!("{} [{}]", flag.help.trim_end_matches('.'), flag.transports.join(", "));
            let arg = typed(&flag.long, flag.kind, &flag.value)
                .help(help.trim_start().to_owned())
                .aliases(flag.aliases.clone())
                .hide(flag.hidden)
                .help_heading(heading)
                .global(global);
            command = command.arg(arg);
        }
        command
    }
}

fn options<'a>(
    transports: impl Iterator<Item = &'a TransportManifest>,
) -> impl Iterator<Item = (&'a TransportManifest, &'a OptionManifest)> {
    transports.flat_map(|transport| transport.options.iter().map(move |option| (transport, option)))
}

/// Returns the long flag of an option on one side of a command, if the command has it there.
fn long_flag(option: &OptionManifest, command: &str, images: Images, side: Side) -> Option<String> {
    let flag = option.flag();
    match images {
        Images::Two if option.sides.contains(&side) => Some(match side {
            Side::Destination => format!("dest-{flag}"),
            _ => format!("src-{flag}"),
        }),
        // The one image is read, deleted or listed. An option for writing only comes along when
        // the manifest names the command.
        Images::One if side == Side::Source && !option.is_global() => {
            (option.sides.contains(&Side::Source) || option.names(command)).then(|| flag.to_owned())
        }
        Images::None if side == Side::Source && !option.is_global() => {
            option.names(command).then(|| flag.to_owned())
        }
        _ => None,
    }
}

fn value_name(kind: OptionKind) -> &'static str {
    match kind {
        OptionKind::Bool => "BOOL",
        OptionKind::String => "TEXT",
        OptionKind::Path => "PATH",
        OptionKind::Integer => "NUMBER",
        OptionKind::List => "LIST",
    }
}

/// Makes an argument that takes values as Go's flag parser does; its id is its long name.
pub fn typed(long: &str, kind: OptionKind, value: &str) -> Arg {
    let arg = Arg::new(long.to_owned()).long(long.to_owned()).value_name(value.to_owned());
    match kind {
        OptionKind::Bool => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .hide_default_value(true)
            .value_name("BOOL")
            .value_parser(parse_bool),
        OptionKind::Integer => {
            arg.action(ArgAction::Set).allow_hyphen_values(true).value_parser(parse_int)
        }
        OptionKind::List => arg.action(ArgAction::Append).allow_hyphen_values(true),
        OptionKind::String | OptionKind::Path => {
            arg.action(ArgAction::Set).allow_hyphen_values(true)
        }
    }
}

/// Where the options of one use of a transport are read from.
pub struct Given<'a> {
    /// The command's name.
    pub command: &'a str,
    /// How many images it names.
    pub images: Images,
    /// Which of them this is.
    pub side: Side,
    /// The command's arguments, flags of the whole program included.
    pub matches: &'a ArgMatches,
    /// The value of the deprecated `--tls-verify` before the command or without prefix, which
    /// counts where the side's own flag is not given.
    pub old_tls_verify: Option<bool>,
}

impl Given<'_> {
    /// Collects what the user gave for `transport`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when options that exclude each other are given.
    pub fn options(&self, transport: &TransportManifest) -> Result<Options> {
        let mut options = Options::default();
        for option in &transport.options {
            let own = long_flag(option, self.command, self.images, self.side)
                .filter(|_| option.is_for(self.command));
            let global = option.sides.contains(&Side::Global).then(|| option.flag().to_owned());
            let mut values = own.map(|long| self.values(&long, option.kind)).unwrap_or_default();
            if values.is_empty() {
                values = global.map(|long| self.values(&long, option.kind)).unwrap_or_default();
            }
            if values.is_empty() && option.name == "tls-verify" {
                values.extend(self.old_tls_verify.map(|value| value.to_string()));
            }
            for value in values {
                options.add(&option.name, value);
            }
        }
        check_conflicts(transport, &options)?;
        Ok(options)
    }

    fn values(&self, long: &str, kind: OptionKind) -> Vec<String> {
        // An argument that is not the command's, or of another type because another plugin was
        // first, is an error here and simply not given.
        let Ok(Some(ValueSource::CommandLine)) =
            self.matches.try_contains_id(long).map(|_| self.matches.value_source(long))
        else {
            return Vec::new();
        };
        let matches = self.matches;
        match kind {
            OptionKind::Bool => one::<bool>(matches, long).map(|it| it.to_string()),
            OptionKind::Integer => one::<i64>(matches, long).map(|it| it.to_string()),
            OptionKind::String | OptionKind::Path => one::<String>(matches, long),
            OptionKind::List => {
                let given = matches.try_get_many::<String>(long).ok().flatten();
                return given.into_iter().flatten().flat_map(|it| split_list(it)).collect();
            }
        }
        .into_iter()
        .collect()
    }
}

/// Returns the value of an argument that the command may or may not have.
pub fn one<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, long: &str) -> Option<T> {
    matches.try_get_one::<T>(long).ok().flatten().cloned()
}

fn check_conflicts(transport: &TransportManifest, options: &Options) -> Result<()> {
    // A switch that is off excludes nothing.
    let given = |name: &str| {
        options.get(name).is_some_and(|value| {
            value != "false"
                || !transport
                    .options
                    .iter()
                    .any(|it| it.name == name && it.kind == OptionKind::Bool)
        })
    };
    for option in transport.options.iter().filter(|option| given(&option.name)) {
        if let Some(other) = option.conflicts.iter().find(|other| given(other)) {
            let message =
                format!("{} and {other} cannot be specified at the same time", option.name);
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::plugin::Manifest;

    fn transports() -> Vec<TransportManifest> {
        let text = r#"
            manifest_version = 1
            name = "net"
            version = "1"
            abi = "1.0"
            library = "libnet.so"
            [[transport]]
            name = "net"
            syntax = "net:X"
            option = [
                { name = "creds", type = "string", source-aliases = ["screds"], conflicts = ["no-creds"] },
                { name = "no-creds", type = "bool" },
                { name = "tls-verify", type = "bool" },
                { name = "accept", type = "bool", sides = ["destination"] },
                { name = "agent", type = "string", sides = ["global"], flag = "user-agent-prefix" },
                { name = "authfile", type = "path", sides = ["source", "destination", "global"] },
                { name = "keys", type = "list", commands = ["copy"], further-commands = ["login"] },
                { name = "policy", type = "string", sides = ["global"] },
            ]
            [[transport]]
            name = "other"
            syntax = "other:X"
            option = [
                { name = "tls-verify", type = "bool" },
                { name = "creds", type = "integer" },
            ]
        "#;
        Manifest::parse(text, Path::new("net.toml")).unwrap().transports
    }

    fn command(name: &str, images: Images) -> Command {
        let transports = transports();
        let reserved = BTreeSet::from(["policy".to_owned()]);
        let global = Flags::global(transports.iter(), &reserved);
        let own = Flags::of_command(name, images, transports.iter(), &reserved);
        let sub = own.extend(Command::new(name.to_owned()), "Plugins", false);
        global.extend(Command::new("demo").args_override_self(true), "Global", true).subcommand(sub)
    }

    fn given(images: Images, side: Side, line: &str) -> Result<Options> {
        let name = if images == Images::Two { "copy" } else { "inspect" };
        let words = std::iter::once("demo").chain(line.split(' '));
        let matches = command(name, images).try_get_matches_from(words).unwrap();
        let (command, matches) = matches.subcommand().unwrap();
        let given = Given { command, images, side, matches, old_tls_verify: None };
        given.options(&transports()[0])
    }

    #[test]
    fn a_side_gets_the_values_of_its_own_flags() {
        let line = "copy --src-creds a:b --dest-no-creds --dest-accept --src-keys x,y --src-keys z";
        let source = given(Images::Two, Side::Source, line).unwrap();
        assert_eq!(source.get("creds"), Some("a:b"));
        assert_eq!(source.all("keys"), ["x", "y", "z"]);
        assert_eq!(source.get("accept"), None);
        let destination = given(Images::Two, Side::Destination, line).unwrap();
        assert_eq!(destination.flag("no-creds").unwrap(), Some(true));
        assert_eq!(destination.flag("accept").unwrap(), Some(true));
        assert_eq!(destination.get("creds"), None);
    }

    #[test]
    fn aliases_and_the_last_value_count() {
        let source = given(Images::Two, Side::Source, "copy --screds a --src-creds=b").unwrap();
        assert_eq!(source.all("creds"), ["b"]);
    }

    #[test]
    fn global_flags_go_to_both_sides_and_a_sides_own_flag_comes_first() {
        let line = "--user-agent-prefix me copy --authfile g --dest-authfile d";
        let source = given(Images::Two, Side::Source, line).unwrap();
        let destination = given(Images::Two, Side::Destination, line).unwrap();
        assert_eq!((source.get("agent"), source.get("authfile")), (Some("me"), Some("g")));
        assert_eq!(destination.get("authfile"), Some("d"));
        let one = given(Images::One, Side::Source, "inspect --authfile g").unwrap();
        assert_eq!(one.get("authfile"), Some("g"));
    }

    #[test]
    fn commands_have_only_what_is_declared_for_them() {
        let transports = transports();
        let flags = Flags::of_command("inspect", Images::One, transports.iter(), &BTreeSet::new());
        let longs: Vec<_> = flags.iter().map(|flag| flag.long.as_str()).collect();
        assert_eq!(longs, ["authfile", "creds", "no-creds", "tls-verify"]);
    }

    #[test]
    fn a_command_without_images_has_the_flags_that_name_it() {
        let transports = transports();
        let flags = Flags::of_command("login", Images::None, transports.iter(), &BTreeSet::new());
        assert_eq!(flags.iter().map(|flag| &flag.long).collect::<Vec<_>>(), ["keys"]);
        let command = flags.extend(Command::new("login"), "Plugins", false);
        let matches = command.try_get_matches_from(["login", "--keys", "a,b"]).unwrap();
        let given = Given {
            command: "login",
            images: Images::None,
            side: Side::Source,
            matches: &matches,
            old_tls_verify: Some(false),
        };
        let options = given.options(&transports[0]).unwrap();
        assert_eq!(options.all("keys"), ["a", "b"]);
        assert_eq!(options.flag("tls-verify").unwrap(), Some(false));
    }

    #[test]
    fn a_global_flag_with_sides_is_only_of_commands_that_name_images() {
        let transports = transports();
        let names = |flags: &Flags| flags.iter().map(|it| it.long.clone()).collect::<Vec<_>>();
        let none = BTreeSet::new();
        assert_eq!(
            names(&Flags::global(transports.iter(), &none)),
            ["policy", "user-agent-prefix"]
        );
        let copy = names(&Flags::of_command("copy", Images::Two, transports.iter(), &none));
        for long in ["authfile", "src-authfile", "dest-authfile"] {
            assert!(copy.iter().any(|it| it == long), "{copy:?}");
        }
    }

    #[test]
    fn the_same_flag_of_two_transports_exists_once_and_clashes_are_told() {
        let transports = transports();
        let flags = Flags::of_command("inspect", Images::One, transports.iter(), &BTreeSet::new());
        let shared = flags.iter().find(|flag| flag.long == "tls-verify").unwrap();
        assert_eq!(shared.transports, ["net", "other"]);
        assert!(flags.problems[0].contains("--creds of transport `other`"), "{:?}", flags.problems);
        let reserved = BTreeSet::from(["policy".to_owned()]);
        assert!(Flags::global(transports.iter(), &reserved).problems[0].contains("--policy"));
    }

    #[test]
    fn options_that_exclude_each_other_are_an_error_unless_switched_off() {
        let error = given(Images::One, Side::Source, "inspect --creds a --no-creds").unwrap_err();
        assert_eq!(error.message(), "creds and no-creds cannot be specified at the same time");
        given(Images::One, Side::Source, "inspect --creds a --no-creds=false").unwrap();
    }

    #[test]
    fn a_boolean_takes_a_value_only_after_an_equals_sign() {
        let command = command("inspect", Images::One)
            .mut_subcommand("inspect", |it| it.arg(Arg::new("images").num_args(0..)));
        let matches =
            command.try_get_matches_from(["demo", "inspect", "--tls-verify", "false"]).unwrap();
        let (_, matches) = matches.subcommand().unwrap();
        assert_eq!(one::<bool>(matches, "tls-verify"), Some(true));
        assert_eq!(one::<String>(matches, "images").as_deref(), Some("false"));
    }
}
