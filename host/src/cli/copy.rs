//! `copy`: an image, or several with their index, from one place to another.

use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use diolkos_sdk::{BlobRole, Error, ErrorKind, Result, ResultExt};

use super::args::{get_words, is_on, number, retry_args, switch, text, words};
use super::console::Personality;
use super::context::Context;
use super::endpoint::{self, Parsed};
use super::flags::{Images, one};
use super::output;
use super::progress::{self, Mode};
use super::retry::retry_times;
use super::values::{parse_int, quote};
use crate::cache::BlobCache;
use crate::compress::Compression;
use crate::copy::{
    self, BlobOutcome, CopyRequest, Endpoint, Event, LayerRequest, ManifestFormat, Progress,
    Report, Selection,
};
use crate::image::Manifest;
use crate::levels;
use crate::plugin::{OptionManifest, Side};

/// The command's name.
pub const NAME: &str = "copy";

/// Makes the command.
pub fn command() -> Command {
    Command::new(NAME)
        .about("Copy an image from one place to another")
        .long_about(
            "Copies an image from one place to another, or with --all the images of all platforms \
             together with their index. Layers that the destination has are not copied again; \
             what is copied is verified against its digest on the way.",
        )
        .args([
            switch("all", "Copy the images of all platforms and their index").short('a'),
            text("multi-arch", "WHICH", "Copy of an index: `system`, `all` or `index-only`"),
            text("format", "TYPE", "Type of the manifest to write: `oci`, `v2s1` or `v2s2`")
                .short('f'),
            switch("preserve-digests", "Fail rather than change a manifest"),
            switch("remove-signatures", "Do not copy signatures"),
            text("digestfile", "FILE", "Write the digest of the copied manifest to FILE"),
            number("image-parallel-copies", "N", "Blobs copied at the same time [default: 6]"),
            text("dest-compress-format", "FORMAT", "Compress layers as `gzip` or `zstd`"),
            text("dest-compress-level", "LEVEL", "Level of compression: gzip 1 to 9, zstd 1 to 20")
                .value_parser(parse_int),
            switch(
                "dest-force-compress-format",
                "Compress layers again that are compressed in another format",
            ),
        ])
        .args(retry_args())
        .args([
            switch("quiet", "Show no progress").short('q'),
            text(
                "progress",
                "HOW",
                "How progress is shown: `auto`, `bar`, `plain`, `json` or `none`",
            ),
            dry_run(),
        ])
        .arg(words("SOURCE-IMAGE DESTINATION-IMAGE", "Where to copy from, and where to"))
}

fn dry_run() -> Arg {
    text("dry-run", "HOW", "Only say what would be copied, as `text` or `json`")
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("text")
}

/// Runs the command.
pub fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let words = get_words(matches);
    let [source, destination] = &words[..] else {
        context.help_on_stderr(NAME);
        return Err(Error::new(ErrorKind::InvalidInput, "Exactly two arguments expected"));
    };
    if one::<bool>(matches, "tls-verify").is_some() {
        context
            .console
            .warn("'--tls-verify' is deprecated, instead use: --src-tls-verify, --dest-tls-verify");
    }
    let cannot = || format!("cannot copy `{source}` to `{destination}`");
    let job = Job::new(context, matches, source, destination)
        .map_err(|error| context.as_diolkos(error, cannot))?;
    job.run(context, matches).map_err(|error| match context.personality() {
        Personality::Skopeo => in_skopeos_words(error, &job.source, &job.destination),
        Personality::Diolkos => job.with_own_flags(context, error),
    })
}

/// A copy, ready to run.
struct Job {
    policy: crate::trust::Policy,
    source: Endpoint,
    destination: Endpoint,
    request: CopyRequest,
    mode: Mode,
    dry_run: Option<DryRun>,
}

#[derive(Clone, Copy)]
enum DryRun {
    Text,
    Json,
}

impl Job {
    /// Reads the arguments. The order of the checks is skopeo's.
    fn new(
        context: &Context,
        matches: &ArgMatches,
        source_name: &str,
        destination_name: &str,
    ) -> Result<Self> {
        let policy = context.globals.policy()?;
        let source = parse(context, "source", source_name)?;
        let destination = parse(context, "destination", destination_name)?;
        let (transport, _) = endpoint::split(source_name)?;
        policy.check_scopes(transport, &*context.transports.load(transport)?)?;
        let source = source.with_options(context, NAME, Images::Two, Side::Source, matches)?;
        let destination =
            destination.with_options(context, NAME, Images::Two, Side::Destination, matches)?;
        warn_of_no_effect(context, matches, &destination);
        let request = request(context, matches)?;
        let dry_run = match one::<String>(matches, "dry-run").as_deref() {
            None => None,
            Some("text") => Some(DryRun::Text),
            Some("json") => Some(DryRun::Json),
            Some(other) => {
                let message = format!("unknown form of --dry-run `{other}`");
                return Err(Error::new(ErrorKind::InvalidInput, message)
                    .with_hint("choose --dry-run or --dry-run=json"));
            }
        };
        let mode = mode(matches, destination_name)?;
        Ok(Self { policy, source, destination, request, mode, dry_run })
    }

    /// Names flags in a hint as this command has them: transports do not know for which side of a
    /// copy they work.
    fn with_own_flags(&self, context: &Context, error: Error) -> Error {
        let levels = error.chain();
        let side = levels.iter().find_map(|level| {
            let sides =
                [("source: ", "src", &self.source), ("destination: ", "dest", &self.destination)];
            sides.into_iter().find(|(prefix, ..)| level.starts_with(prefix))
        });
        let (Some((_, side, endpoint)), Some(hint)) = (side, error.hint()) else { return error };
        let options = context.transports.find(&endpoint.transport).map(|it| &it.options);
        let flags: Vec<_> = options.into_iter().flatten().map(OptionManifest::flag).collect();
        let hint = with_side(hint, side, &flags);
        levels::error(error.kind(), levels, Some(&hint))
    }

    fn run(&self, context: &Context, matches: &ArgMatches) -> Result<()> {
        if let Some(form) = self.dry_run {
            let plan = copy::plan(&self.request, &self.source, &self.destination, &self.policy)?;
            return match form {
                DryRun::Text => output::line(plan.to_string().trim_end()),
                DryRun::Json => output::json(&plan),
            };
        }
        let progress = progress::progress(&context.console, self.mode);
        let report =
            copy::run(&self.request, &self.source, &self.destination, &self.policy, &*progress);
        if context.personality() == Personality::Skopeo
            && let Ok(report) = &report
        {
            say_all(report, &*progress);
        }
        // Bars are gone before anything else is said.
        drop(progress);
        let report = report?;
        let talks = self.mode != Mode::None
            && self.mode != Mode::Json
            && context.personality() == Personality::Diolkos;
        if talks && report.was_there {
            context.console.line("the destination has this image already; nothing was written");
        }
        if let (true, Some(details)) = (talks, &report.committed.details) {
            context.console.line(&format!("stored as {}:{details}", self.destination.transport));
        }
        if let Some(path) = one::<String>(matches, "digestfile").filter(|path| !path.is_empty()) {
            std::fs::write(&path, report.digest.as_str())
                .context(|| format!("open {path}"))
                .context(|| format!("Failed to write digest to file {}", quote(&path)))?;
        }
        Ok(())
    }
}

/// Tells of the steps that were left out because the destination had the image already. Scripts
/// look for skopeo's lines whatever it had to do.
fn say_all(report: &Report, progress: &dyn Progress) {
    let Ok(Manifest::Image(image)) = Manifest::parse(&report.manifest) else { return };
    if !report.was_there {
        return;
    }
    let layers = image.layers().iter().map(|layer| (&layer.blob.digest, BlobRole::Layer(0)));
    let config = image.config().map(|config| (&config.digest, BlobRole::Config));
    for (digest, role) in layers.chain(config) {
        let outcome = BlobOutcome::Reused;
        progress.event(&Event::BlobDone { digest: digest.clone(), role, outcome });
    }
    progress.event(&Event::Manifest { digest: report.digest.clone(), top_level: true });
}

fn parse(context: &Context, side: &str, name: &str) -> Result<Parsed> {
    endpoint::parse(context, name).map_err(|error| match context.personality() {
        Personality::Skopeo => error.context(format!("Invalid {side} name {name}")),
        Personality::Diolkos => error.context(format!("{side}: cannot use `{name}`")),
    })
}

fn mode(matches: &ArgMatches, destination: &str) -> Result<Mode> {
    let mode = one::<String>(matches, "progress").map(|text| Mode::parse(&text)).transpose()?;
    let details = destination.split_once(':').map_or("", |(_, details)| details);
    if is_on(matches, "quiet") || progress::destination_is_stdout(details) {
        return Ok(Mode::None);
    }
    Ok(mode.unwrap_or(Mode::Auto))
}

/// Makes the request from the flags.
fn request(context: &Context, matches: &ArgMatches) -> Result<CopyRequest> {
    let compression = one::<String>(matches, "dest-compress-format")
        .filter(|name| !name.is_empty())
        .map(|name| compression(&name))
        .transpose()?;
    let force_compression = is_on(matches, "dest-force-compress-format");
    let selection = selection(matches)?;
    let format = one::<String>(matches, "format").map(|name| format(&name)).transpose()?;
    if force_compression && compression.is_none() {
        return Err(invalid(
            "cannot use ForceCompressionFormat with undefined default compression format",
        )
        .with_hint("give --dest-compress-format too"));
    }
    let level = one::<i64>(matches, "dest-compress-level");
    let parallel = one::<u64>(matches, "image-parallel-copies").filter(|count| *count > 0);
    Ok(CopyRequest {
        selection,
        platform: context.globals.platform.clone(),
        format,
        preserve_digests: is_on(matches, "preserve-digests"),
        require_signed: context.globals.require_signed,
        remove_signatures: is_on(matches, "remove-signatures"),
        // Whether layers are compressed at all is the destination's affair, and its options'.
        layers: LayerRequest::Destination,
        compression,
        compression_level: level.map(check_level).transpose()?,
        force_compression,
        parallel_copies: parallel.map(|count| usize::try_from(count).unwrap_or(usize::MAX)),
        retry_times: retry_times(matches),
        retry_delay: one::<Duration>(matches, "retry-delay").filter(|delay| !delay.is_zero()),
        blob_cache: BlobCache::default_path(),
    })
}

/// Warns of flags that the destination's transport does not have. Scripts have them in lists for
/// every destination; skopeo warns of these two and takes the others in silence.
fn warn_of_no_effect(context: &Context, matches: &ArgMatches, destination: &Endpoint) {
    for option in ["compress", "decompress"] {
        let long = format!("dest-{option}");
        let has = context
            .transports
            .find(&destination.transport)
            .is_some_and(|transport| transport.options.iter().any(|it| it.flag() == option));
        if is_on(matches, &long) && !has {
            let able = context.transports.usable().map(|(it, _)| it);
            let able = able.filter(|it| it.options.iter().any(|it| it.flag() == option));
            let able: Vec<_> = able.map(|it| format!("'{}'", it.name)).collect();
            context.console.warn(&format!(
                "--{long} can only be used if the destination transport is {}",
                able.join(" or ")
            ));
        }
    }
}

fn compression(name: &str) -> Result<Compression> {
    match name {
        "gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        "zstd:chunked" => Err(Error::unsupported("zstd:chunked compression is not supported")
            .with_hint("use --dest-compress-format zstd")),
        "bzip2" | "Xz" => Err(Error::unsupported(format!("{name} compression is not supported"))
            .with_hint("choose gzip or zstd")),
        _ => Err(invalid(format!("cannot find compressor for {}", quote(name)))
            .with_hint("choose gzip or zstd")),
    }
}

fn check_level(level: i64) -> Result<i32> {
    i32::try_from(level).map_err(|_| invalid(format!("there is no compression level {level}")))
}

fn selection(matches: &ArgMatches) -> Result<Selection> {
    let all = is_on(matches, "all");
    let Some(which) = one::<String>(matches, "multi-arch") else {
        return Ok(if all { Selection::All } else { Selection::System });
    };
    if all {
        return Err(invalid("Cannot use --all and --multi-arch flags together"));
    }
    match &*which {
        "system" => Ok(Selection::System),
        "all" => Ok(Selection::All),
        "index-only" => Ok(Selection::IndexOnly),
        _ => Err(invalid(format!(
            "unknown multi-arch option {}. Choose one of the supported options: 'system', 'all', \
             or 'index-only'",
            quote(&which)
        ))),
    }
}

fn format(name: &str) -> Result<ManifestFormat> {
    match name {
        "oci" => Ok(ManifestFormat::Oci),
        "v2s1" => Ok(ManifestFormat::V2s1),
        "v2s2" => Ok(ManifestFormat::V2s2),
        _ => Err(invalid(format!(
            "unknown format {}. Choose one of the supported formats: 'oci', 'v2s1', or 'v2s2'",
            quote(name)
        ))),
    }
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

/// Puts a side's prefix before each of the flags that a hint names.
fn with_side(hint: &str, side: &str, flags: &[&str]) -> String {
    let mut parts = hint.split("--");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        text += "--";
        if flags.contains(&&part[..end.unwrap_or(part.len())]) {
            text += side;
            text += "-";
        }
        text += part;
    }
    text
}

/// Rewrites the levels that the engine adds as skopeo has them.
fn in_skopeos_words(error: Error, source: &Endpoint, destination: &Endpoint) -> Error {
    let image = |endpoint: &Endpoint| {
        format!("{}:{}", endpoint.transport, endpoint.reference.names().details)
    };
    let chain = error.chain();
    let mut messages: Vec<String> = Vec::new();
    for (index, level) in chain.iter().enumerate() {
        let next = chain.get(index + 1).map_or("", String::as_str);
        let (side, step) = match level.split_once(": ") {
            Some((side @ ("source" | "destination"), step)) => (side, step),
            _ => ("", level.as_str()),
        };
        match (side, step) {
            ("", step) if step.starts_with("cannot copy `") => {}
            ("source", "opening it") => {
                messages.push(format!("initializing source {}", image(source)));
            }
            ("destination", "opening it") => {
                messages.push(format!("initializing destination {}", image(destination)));
            }
            // Registries are asked when skopeo opens the source, others when it looks at the type.
            ("source", "reading manifest") if happens_at_opening(next) => {
                messages.push(format!("initializing source {}", image(source)));
            }
            ("source", "reading manifest") => {
                messages.push(format!("determining manifest MIME type for {}", image(source)));
            }
            (_, step) => messages.extend(blob_step(step, next)),
        }
    }
    if messages.is_empty() {
        return error;
    }
    levels::error(error.kind(), messages, error.hint())
}

/// Tells whether skopeo meets a failure to read a manifest while it opens the image: it asks
/// registries then, with their mirrors.
pub(super) fn happens_at_opening(message: &str) -> bool {
    message.starts_with("reading manifest ") || message.starts_with("(Mirrors also failed")
}

/// Names a blob by its digest alone, as skopeo does, and not by its place in the image.
fn blob_step(step: &str, cause: &str) -> Vec<String> {
    let whole = || vec![step.to_owned()];
    let verbs = ["reading", "writing", "trying to reuse"];
    let Some((verb, blob)) =
        verbs.iter().find_map(|verb| Some((*verb, step.strip_prefix(verb)?.strip_prefix(' ')?)))
    else {
        return whole();
    };
    let is_blob = blob.starts_with("layer ") || blob.starts_with("config ");
    let digest = blob.split_once('(').and_then(|(_, rest)| rest.split([',', ')']).next());
    let (true, Some(digest)) = (is_blob, digest) else { return whole() };
    match verb {
        // The bytes are verified while they are written.
        "reading" if cause.starts_with("Digest did not match") => {
            vec!["writing blob".into(), "happened during read".into()]
        }
        "reading" => vec![format!("reading blob {digest}")],
        "writing" => vec!["writing blob".into()],
        _ => vec![format!("trying to reuse blob {digest} at destination")],
    }
}

#[cfg(test)]
mod tests {
    use diolkos_sdk::{Host, ImageRef, Names, Options, PlatformChoice, Session};

    use super::*;

    fn matches(line: &str) -> ArgMatches {
        let words = std::iter::once(NAME).chain(line.split(' ').filter(|word| !word.is_empty()));
        command().args_override_self(true).try_get_matches_from(words).unwrap()
    }

    #[test]
    fn what_is_selected_is_read_in_all_its_forms() {
        let select = |line: &str| selection(&matches(line)).map_err(|error| error.to_string());
        assert_eq!(select(""), Ok(Selection::System));
        assert_eq!(select("-a"), Ok(Selection::All));
        assert_eq!(select("--multi-arch index-only"), Ok(Selection::IndexOnly));
        assert_eq!(select("--all=false --multi-arch all"), Ok(Selection::All));
        assert!(select("--all --multi-arch all").unwrap_err().contains("together"));
        assert!(
            select("--multi-arch x").unwrap_err().starts_with("unknown multi-arch option \"x\".")
        );
    }

    #[test]
    fn formats_have_the_names_and_the_refusal_that_scripts_know() {
        assert_eq!(format("v2s2").unwrap(), ManifestFormat::V2s2);
        assert_eq!(
            format("").unwrap_err().message(),
            "unknown format \"\". Choose one of the supported formats: 'oci', 'v2s1', or 'v2s2'"
        );
        assert_eq!(compression("lz4").unwrap_err().message(), "cannot find compressor for \"lz4\"");
    }

    #[test]
    fn blobs_are_named_as_skopeo_names_them() {
        let name = "layer 2 of 3 (sha256:ab, 70.2 kB)";
        let step = |verb: &str, cause: &str| blob_step(&format!("{verb} {name}"), cause).join(": ");
        assert_eq!(step("reading", "open x"), "reading blob sha256:ab");
        assert_eq!(
            step("reading", "Digest did not match, expected a, got b"),
            "writing blob: happened during read"
        );
        assert_eq!(step("writing", ""), "writing blob");
        assert_eq!(step("trying to reuse", ""), "trying to reuse blob sha256:ab at destination");
        assert_eq!(blob_step("writing manifest", ""), ["writing manifest"]);
    }

    #[test]
    fn hints_name_the_flag_of_the_side_that_failed() {
        let flags = ["tls-verify", "creds"];
        assert_eq!(
            with_side("give --tls-verify=false, or --creds", "src", &flags),
            "give --src-tls-verify=false, or --src-creds"
        );
        assert_eq!(with_side("use --remove-signatures", "dest", &flags), "use --remove-signatures");
    }

    #[test]
    fn progress_is_silent_where_the_image_itself_goes_to_stdout() {
        let mode = |line: &str, destination: &str| mode(&matches(line), destination).unwrap();
        assert_eq!(mode("", "oci:out"), Mode::Auto);
        assert_eq!(mode("--progress json", "oci:out"), Mode::Json);
        assert_eq!(mode("-q --progress json", "oci:out"), Mode::None);
        assert_eq!(mode("", "docker-archive:/dev/stdout:a/b:c"), Mode::None);
    }

    struct Named(&'static str);
    impl ImageRef for Named {
        fn names(&self) -> Names {
            Names::new(self.0)
        }
    }

    fn endpoint(transport: &str, details: &'static str) -> Endpoint {
        Endpoint {
            name: format!("{transport}:{details}"),
            transport: transport.into(),
            reference: Box::new(Named(details)),
            session: Session {
                options: Options::default(),
                platform: PlatformChoice::default(),
                temp_dir: "/tmp".into(),
                host: Host::silent(),
            },
        }
    }

    #[test]
    fn as_skopeo_the_engines_levels_are_skopeos() {
        let error = Error::new(ErrorKind::ImageNotFound, "manifest unknown")
            .context("source: opening it")
            .context("cannot copy `oci:a` to `dir:b`");
        let error = in_skopeos_words(error, &endpoint("oci", "a:"), &endpoint("dir", "b"));
        assert_eq!(error.chain(), ["initializing source oci:a:", "manifest unknown"]);
        assert_eq!(error.kind(), ErrorKind::ImageNotFound);
    }
}
