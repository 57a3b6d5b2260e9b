//! `generate`: the manual pages, made from the same commands that parse the command line.
//!
//! Hidden: packages call it while they are built. What a page says of plugins is what is installed
//! (or named by `--plugin-dir`) at that time.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, ArgMatches, Command};
use clap_mangen::Man;
use diolkos_sdk::{Error, ErrorKind, Result, ResultExt};

use super::args::command_line;
use super::console::Personality;
use super::context::Context;
use super::flags::one;
use crate::plugin::Transports;

/// The command's name.
pub const NAME: &str = "generate";

/// Makes the command.
pub fn command() -> Command {
    Command::new(NAME).about("Write files for packages").hide(true).subcommand(
        Command::new("man").about("Write the manual pages into a directory").arg(
            Arg::new("directory")
                .value_name("DIR")
                .required(true)
                .help("The directory, which exists"),
        ),
    )
}

/// Runs the command.
pub fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    match matches.subcommand() {
        Some(("man", matches)) => {
            let dir = one::<String>(matches, "directory").unwrap_or_default();
            std::fs::create_dir_all(&dir).context(|| format!("cannot create `{dir}`"))?;
            for (name, page) in man_pages(&context.transports) {
                let path = Path::new(&dir).join(name);
                std::fs::write(&path, page)
                    .context(|| format!("cannot write `{}`", path.display()))?;
            }
            Ok(())
        }
        _ => Err(Error::new(ErrorKind::InvalidInput, "missing command 'generate COMMAND'")),
    }
}

/// Makes all manual pages: file name and content.
pub fn man_pages(transports: &Transports) -> Vec<(String, Vec<u8>)> {
    let mut root = command_line(Personality::Diolkos, transports).command;
    root.build();
    let mut pages = Vec::new();
    pages.push(page(&root, "diolkos", transports));
    for command in root.get_subcommands().filter(|it| !it.is_hide_set() && it.get_name() != "help")
    {
        let name = format!("diolkos-{}", command.get_name());
        pages.push(page(command, &name, transports));
        for nested in command.get_subcommands().filter(|it| it.get_name() != "help") {
            pages.push(page(nested, &format!("{name}-{}", nested.get_name()), transports));
        }
    }
    pages
}

fn page(command: &Command, name: &str, transports: &Transports) -> (String, Vec<u8>) {
    let spoken = name.replace('-', " ");
    // The synopsis is made from the name under which the command is called.
    let spoken: &'static str = Box::leak(spoken.into_boxed_str());
    let command =
        command.clone().name(name.to_owned()).bin_name(spoken).disable_help_subcommand(true);
    let man = Man::new(command)
        .title(name.to_uppercase())
        .source(format!("diolkos {}", env!("CARGO_PKG_VERSION")))
        .manual("Diolkos");
    let mut page = Vec::new();
    let written = man
        .render_title(&mut page)
        .and_then(|()| man.render_name_section(&mut page))
        .and_then(|()| man.render_synopsis_section(&mut page))
        .and_then(|()| man.render_description_section(&mut page))
        .and_then(|()| man.render_options_section(&mut page));
    written.expect("writing to memory cannot fail");
    page.extend(sections(name, transports).into_bytes());
    (format!("{name}.1"), page)
}

fn sections(name: &str, transports: &Transports) -> String {
    let mut text = String::new();
    if name == "diolkos" {
        text += &commands_and_transports(transports);
        text += &plugin_options(transports);
    }
    if name == "diolkos-copy" {
        text += EVENTS;
    }
    text += match name {
        "diolkos-login" | "diolkos-logout" => LOGINS,
        _ => EXIT_CODES,
    };
    if name == "diolkos" || name == "diolkos-copy" {
        text += FILES;
    }
    if name.starts_with("diolkos-plugin") || name == "diolkos" {
        text += PLUGIN_FILES;
        text += ENVIRONMENT;
    }
    text + SEE_ALSO
}

fn commands_and_transports(transports: &Transports) -> String {
    let mut text = String::from(".SH TRANSPORTS\n");
    text += "Each transport comes from a plugin. Installed when this page was made:\n";
    for (transport, found) in transports.usable() {
        let syntax = escape(&transport.syntax);
        let summary = escape(&transport.summary);
        write!(text, ".TP\n\\fB{syntax}\\fR\n{summary} (plugin {})\n", escape(&found.name))
            .expect("writing to a string cannot fail");
    }
    text
}

fn plugin_options(transports: &Transports) -> String {
    let mut text = String::from(".SH PLUGIN OPTIONS\n");
    text += "Options of transports exist because an installed plugin declares them. In commands \
             with a source and a destination they have the prefix \\fB\\-\\-src\\-\\fR or \
             \\fB\\-\\-dest\\-\\fR, in the others none.\n";
    for (transport, _) in transports.usable() {
        for option in transport.options.iter().filter(|option| !option.hidden) {
            let scope = if option.is_global() { "all commands" } else { &transport.name };
            let flag = escape(option.flag());
            let help = escape(&option.help);
            write!(text, ".TP\n\\fB{flag}\\fR ({})\n{help}\n", escape(scope))
                .expect("writing to a string cannot fail");
        }
    }
    text
}

/// Writes a text so that roff shows it as it is.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\n', " ");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

const EXIT_CODES: &str = r".SH EXIT CODES
.TP
.B 0
success
.TP
.B 2
the image does not exist
.TP
.B 1
every other failure: wrong usage, and commands that were stopped by Ctrl\-C, SIGTERM or
\fB\-\-command\-timeout\fR, included
";

const LOGINS: &str = r".SH FILES
Credentials are looked for in these files, and the first that has some for a registry counts.
Without \fB\-\-authfile\fR, \fB\-\-compat\-auth\-file\fR, \fBREGISTRY_AUTH_FILE\fR and
\fBDOCKER_CONFIG\fR, it is the first of them that is changed, under a lock and in one step; what
it holds besides stays.
.TP
.I $XDG_RUNTIME_DIR/containers/auth.json, /run/containers/UID/auth.json
containers\-auth.json(5)
.TP
.I $XDG_CONFIG_HOME/containers/auth.json
by default below \fI$HOME/.config\fR
.TP
.I $DOCKER_CONFIG/config.json
by default \fI$HOME/.docker/config.json\fR
.TP
.I $HOME/.dockercfg
as old versions of Docker wrote it
.SH CREDENTIAL HELPERS
A file may name programs that keep credentials in its place: \fBcredHelpers\fR for single
registries, and \fBcredsStore\fR for all others. \fBdocker\-credential\-NAME\fR is run then, and
stopped when it does not answer within 30 seconds. A helper of \fBcredHelpers\fR must be
installed; a \fBcredsStore\fR that fails is passed over.
.SH ENVIRONMENT
.TP
.B REGISTRY_AUTH_FILE
the only file that counts, unless an option names another
.TP
.B DOCKER_CONFIG
the directory of Docker's config.json, which is then what is changed, in Docker's format
.SH EXIT CODES
.TP
.B 0
success
.TP
.B 1
the registry does not take the user name and password, nobody is logged in, wrong usage, and every
other failure
";

const EVENTS: &str = r".SH PROGRESS EVENTS
With \fB\-\-progress json\fR, each line on stderr is an object with the key \fBevent\fR. These names
and keys are stable; more may come.
.TP
.B signatures
of an image, or \fBof_index\fR of its index: \fBstep\fR is read, check or store
.TP
.B index
an index is begun: its \fBinstances\fR, and how many are \fBselected\fR
.TP
.B image
an image is begun: \fBdigest\fR, \fBplatform\fR or null, \fBnumber\fR from 1, \fBtotal\fR
.TP
.B selected
an image of an index was chosen: \fBplatform\fR, and how many were \fBavailable\fR
.TP
.B blob\-start
\fBdigest\fR, \fBrole\fR (config or layer), \fBlayer\fR from 0 or null, \fBsize\fR or null
.TP
.B blob\-progress
once a second for each blob on its way: \fBdigest\fR, \fBbytes\fR read, \fBsize\fR or null
.TP
.B blob\-done
\fBdigest\fR, \fBrole\fR, \fBlayer\fR, \fBoutcome\fR (copied, reused or foreign), bytes
\fBwritten\fR or null
.TP
.B retry
\fBwhat\fR is tried again, \fBwhy\fR, after \fBdelay_seconds\fR
.TP
.B manifest
a manifest is about to be written: \fBdigest\fR, \fBtop_level\fR
.TP
.B done
the copy is complete: \fBdigest\fR
.TP
.B warning, info, debug
\fBmessage\fR
.TP
.B error
the copy failed: \fBmessages\fR, outermost first, \fBhint\fR or null, \fBexit_code\fR
";

const FILES: &str = r".SH FILES
.TP
.I $HOME/.config/containers/policy.json, /etc/containers/policy.json
which images may be copied, containers\-policy.json(5)
.TP
.I /var/tmp
large temporary files, unless \fB\-\-tmpdir\fR says otherwise
";

const PLUGIN_FILES: &str = r".SH PLUGIN FILES
Plugins are looked for in these directories; the first that has one of a name wins:
those of \fB\-\-plugin\-dir\fR and \fBDIOLKOS_PLUGIN_PATH\fR,
.IR $XDG_DATA_HOME/diolkos/plugins ,
the directory of the program,
.I ../lib/diolkos/plugins
from there,
.I /usr/local/lib/diolkos/plugins
and
.IR /usr/lib/diolkos/plugins .
With raised privileges only the last two count. A manifest or library that others can write to, or
that belongs to another user, is refused.
";

const ENVIRONMENT: &str = r".SH ENVIRONMENT
.TP
.B DIOLKOS_PLUGIN_PATH
directories to look for plugins in, separated by colons
.TP
.B XDG_DATA_HOME
the user's data directory; without it, \fI$HOME/.local/share\fR
.TP
.B NO_COLOR
when set, messages have no colours
";

const SEE_ALSO: &str = r".SH SEE ALSO
containers\-transports(5), containers\-policy.json(5), containers\-registries.conf(5),
containers\-auth.json(5)
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Trust;

    #[test]
    fn every_command_has_a_page_with_its_exit_codes() {
        let pages = man_pages(&Transports::discover(&[], Trust::current()));
        let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in [
            "diolkos.1",
            "diolkos-copy.1",
            "diolkos-list-tags.1",
            "diolkos-login.1",
            "diolkos-plugin-check.1",
        ] {
            assert!(names.contains(&name), "{names:?}");
        }
        assert!(!names.iter().any(|name| name.contains("generate")), "{names:?}");
        for (name, page) in pages {
            let page = String::from_utf8(page).unwrap();
            assert!(page.contains(".SH EXIT CODES"), "{name}");
            let keeps_logins = name.starts_with("diolkos-log");
            assert_eq!(page.contains(".SH CREDENTIAL HELPERS"), keeps_logins, "{name}");
        }
    }

    #[test]
    fn texts_of_plugins_cannot_be_taken_for_roff() {
        assert_eq!(escape(".so /etc/passwd\n-x\\"), "\\&.so /etc/passwd \\-x\\e");
    }
}
