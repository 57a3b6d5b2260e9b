//! `manifest-digest`: the digest of a manifest in a file.

use clap::{ArgMatches, Command};
use diolkos_sdk::{Error, ErrorKind, Result, ResultExt};

use super::args::{get_words, words};
use super::context::Context;
use super::output;
use crate::image;

/// The command's name.
pub const NAME: &str = "manifest-digest";

/// Makes the command.
pub fn command() -> Command {
    Command::new(NAME)
        .about("Compute the digest of a manifest in a file")
        .long_about(
            "Computes the digest of a manifest in a file. Of a signed schema 1 manifest, \
             signatures do not count.",
        )
        .arg(words("MANIFEST-FILE", "The manifest"))
}

/// Runs the command.
pub fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let words = get_words(matches);
    let [path] = &words[..] else {
        let name = context.personality().name();
        let message = format!("Usage: {name} manifest-digest manifest");
        return Err(Error::new(ErrorKind::InvalidInput, message));
    };
    let bytes = std::fs::read(path)
        .context(|| format!("open {path}"))
        .context(|| format!("Error reading manifest from {path}"))?;
    let digest = image::digest_of(&bytes).context(|| "Error computing digest")?;
    output::line(digest.as_str())
}
