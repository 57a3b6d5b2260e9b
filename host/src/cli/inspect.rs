//! `inspect`: what an image is, without copying it.

use clap::{ArgMatches, Command};
use diolkos_sdk::{Algorithm, Digest, Error, ErrorKind, RawManifest, Reference, Result, Source};
use sha2::Digest as _;

use super::args::{get_words, is_on, retry_args, switch, text, words};
use super::context::Context;
use super::endpoint;
use super::flags::one;
use super::output;
use super::retry::Retry;
use super::values::quote;
use crate::copy::{self, Endpoint};
use crate::image::inspect::{ConfigInspection, Inspection};
use crate::image::{self, ImageManifest, Manifest};

/// The command's name.
pub const NAME: &str = "inspect";

/// How many indexes may stand within each other.
const MAX_DEPTH: usize = 4;

/// Makes the command.
pub fn command() -> Command {
    Command::new(NAME)
        .about("Show what an image is")
        .long_about(
            "Shows what an image is, as JSON or by a Go template. Of an image for several \
             platforms, the one for this machine is shown, or the one that --override-os, \
             --override-arch and --override-variant choose. No layer is read.",
        )
        .args([
            switch("raw", "Print the manifest, or with --config the config, byte for byte"),
            switch("config", "Print the config in OCI form"),
            text("format", "TEMPLATE", "Print by a Go template").short('f'),
            switch("no-tags", "Do not list the repository's tags").short('n'),
            text("manifest-digest", "ALGORITHM", "Hash for Digest: `sha256` or `sha512`"),
        ])
        .args(retry_args())
        .arg(words("IMAGE-NAME", "The image"))
}

/// Runs the command.
pub fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let words = get_words(matches);
    let [name] = &words[..] else {
        return Err(Error::new(ErrorKind::InvalidInput, "Exactly one argument expected"));
    };
    let format = one::<String>(matches, "format").filter(|format| !format.is_empty());
    if is_on(matches, "raw") && format.is_some() {
        let message = "raw output does not support format option";
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    inspect(context, matches, name, format.as_deref())
        .map_err(|error| context.as_diolkos(error, || format!("cannot inspect `{name}`")))
}

fn inspect(
    context: &Context,
    matches: &ArgMatches,
    name: &str,
    format: Option<&str>,
) -> Result<()> {
    let retry = Retry::read(matches);
    let no_image =
        |error| context.as_skopeo(error, || format!("Error parsing image name {}", quote(name)));
    let endpoint =
        endpoint::parse(context, name).map_err(no_image)?.with_one_side(context, NAME, matches)?;
    let source =
        retry.run(context, || endpoint.reference.open(&endpoint.session)).map_err(no_image)?;
    let image = Image { context, retry, endpoint: &endpoint, source: &*source };
    let top = image.top()?;
    if is_on(matches, "raw") && !is_on(matches, "config") {
        return output::write(&top.bytes);
    }
    let manifest = image
        .choose(&top)
        .map_err(|error| context.as_skopeo(error, || "Error parsing manifest for image".into()))?;
    if is_on(matches, "config") {
        let config = image.config(&manifest)?;
        if is_on(matches, "raw") {
            return output::write(config.as_deref().unwrap_or_default());
        }
        let inspection = ConfigInspection::new(&manifest, config.as_deref()).map_err(|error| {
            context.as_skopeo(error, || "Error reading OCI-formatted configuration data".into())
        })?;
        return match format {
            Some(format) => output::write(inspection.render(format)?.as_bytes()),
            None => output::write(inspection.to_json().as_bytes()),
        };
    }
    let config = image.config(&manifest)?;
    let mut inspection = Inspection::new(&manifest, config.as_deref())?;
    let names = endpoint.reference.names();
    let docker_reference: Option<Reference> =
        names.docker_reference.as_deref().and_then(|reference| reference.parse().ok());
    if let Some(reference) = &docker_reference {
        inspection.name = reference.name();
    }
    let algorithm = one::<String>(matches, "manifest-digest");
    inspection.digest = digest(&top, &manifest, algorithm.as_deref())?;
    // Tags are part of the output where the image is one of a repository that others push to;
    // an archive lists its own with `list-tags`.
    let in_repository = docker_reference.is_some() && names.location.is_some();
    if in_repository && image.has_tags() && !is_on(matches, "no-tags") {
        inspection.repo_tags = image.tags()?;
    }
    match format {
        Some(format) => output::write(inspection.render(format)?.as_bytes()),
        None => output::write(inspection.to_json().as_bytes()),
    }
}

/// An open image.
struct Image<'a> {
    context: &'a Context,
    retry: Retry,
    endpoint: &'a Endpoint,
    source: &'a dyn Source,
}

impl Image<'_> {
    /// Reads the top-level manifest, and verifies it if the name has a digest.
    fn top(&self) -> Result<RawManifest> {
        let prefix = || "Error retrieving manifest for image".into();
        let top = self.retry.run(self.context, || self.source.manifest(None)).map_err(|error| {
            // Registries are asked when skopeo opens the image.
            let at_opening = super::copy::happens_at_opening(error.message());
            self.context.as_skopeo(error, || {
                if at_opening {
                    format!("Error parsing image name {}", quote(&self.endpoint.name))
                } else {
                    prefix()
                }
            })
        })?;
        check_size(&top)?;
        let names = self.endpoint.reference.names();
        let reference: Option<Reference> =
            names.docker_reference.as_deref().and_then(|reference| reference.parse().ok());
        if let Some(expected) = reference.as_ref().and_then(Reference::digest) {
            verify(&top, expected).map_err(|error| self.context.as_skopeo(error, prefix))?;
        }
        Ok(top)
    }

    /// Returns the image that the user's platform has, through indexes.
    fn choose(&self, top: &RawManifest) -> Result<ImageManifest> {
        let mut manifest = Manifest::parse(top)?;
        for _ in 0..MAX_DEPTH {
            let index = match manifest {
                Manifest::Image(image) => return Ok(image),
                Manifest::Index(index) => index,
            };
            let chosen = index
                .choose(&self.context.globals.platform)
                .map_err(|error| error.context("choosing image instance"))?;
            if let Some(platform) = &chosen.platform {
                self.context.console.debug(&format!(
                    "selected {platform} of {} platforms",
                    index.instances().len()
                ));
            }
            let raw =
                self.retry.run(self.context, || self.source.manifest(Some(&chosen.digest)))?;
            check_size(&raw)?;
            verify(&raw, &chosen.digest)?;
            manifest = Manifest::parse(&raw)?;
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("more than {MAX_DEPTH} indexes within each other"),
        ))
    }

    /// Reads and verifies the config; schema 1 has none.
    fn config(&self, manifest: &ImageManifest) -> Result<Option<Vec<u8>>> {
        let Some(descriptor) = manifest.config() else { return Ok(None) };
        self.retry
            .run(self.context, || copy::read_small(self.source, descriptor))
            .map(Some)
            .map_err(|error| {
                self.context.as_skopeo(error, || "Error reading configuration blob".into())
            })
    }

    fn has_tags(&self) -> bool {
        self.context
            .transports
            .find(&self.endpoint.transport)
            .is_some_and(|transport| transport.can("tags"))
    }

    /// Lists the repository's tags; `None` when the registry does not want to tell.
    fn tags(&self) -> Result<Option<Vec<String>>> {
        match self.endpoint.reference.tags(&self.endpoint.session) {
            Ok(tags) => Ok(Some(tags.tags)),
            // Some registries let an image be read and its neighbours not, or have no such request.
            Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unsupported) => {
                self.context.console.debug(&error.chain().join(": "));
                self.context.console.warn("Registry disallows tag list retrieval; skipping");
                Ok(None)
            }
            Err(error) => Err(error.context("Error determining repository tags")),
        }
    }
}

fn check_size(manifest: &RawManifest) -> Result<()> {
    let size = manifest.bytes.len() as u64;
    if size <= RawManifest::MAX_SIZE {
        return Ok(());
    }
    let message = format!(
        "the manifest has {size} bytes; more than {} are never read",
        RawManifest::MAX_SIZE
    );
    Err(Error::new(ErrorKind::Corrupt, message))
}

fn verify(manifest: &RawManifest, expected: &Digest) -> Result<()> {
    if image::digest_matches(&manifest.bytes, expected)? {
        return Ok(());
    }
    let message = format!("Manifest does not match provided manifest digest {expected}");
    Err(Error::new(ErrorKind::Corrupt, message))
}

/// Computes the digest of the top-level manifest with the algorithm asked for, or else the one that
/// the image itself uses.
fn digest(top: &RawManifest, manifest: &ImageManifest, algorithm: Option<&str>) -> Result<String> {
    let algorithm = match algorithm {
        Some("sha256" | "") => Algorithm::Sha256,
        Some("sha512") => Algorithm::Sha512,
        Some(other) => {
            let message = format!("digest algorithm {} is not available", quote(other));
            return Err(
                Error::new(ErrorKind::InvalidInput, message).with_hint("choose sha256 or sha512")
            );
        }
        None => manifest.config().map_or(Algorithm::Sha256, |config| config.digest.algorithm()),
    };
    let digest = match algorithm {
        Algorithm::Sha256 => image::digest_of(&top.bytes)?,
        Algorithm::Sha512 => Digest::from_hash(algorithm, &sha2::Sha512::digest(&top.bytes))?,
    };
    Ok(digest.to_string())
}
