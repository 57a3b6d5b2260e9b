//! `copy`: an image, or several with their index, from one place to another.

use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use diolkos_sdk::{Error, ErrorKind, Result, ResultExt};

use super::args::{get_words, is_on, number, retry_args, switch, text, words};
use super::console::Personality;
use super::context::Context;
use super::endpoint::{self, Parsed};
use super::flags::{Images, one};
use super::output;
use super::progress::{self, Mode};
use super::values::{parse_int, quote};
use crate::cache::BlobCache;
use crate::compress::Compression;
use crate::copy::{self, CopyRequest, Endpoint, LayerRequest, ManifestFormat, Selection};
use crate::levels;
use crate::plugin::Side;

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
        Personality::Diolkos => error,
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
    let times = one::<u64>(matches, "retry-times").unwrap_or(0);
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
        retry_times: u32::try_from(times).unwrap_or(u32::MAX),
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

/// Rewrites the levels that the engine adds as skopeo has them.
fn in_skopeos_words(error: Error, source: &Endpoint, destination: &Endpoint) -> Error {
    let image = |endpoint: &Endpoint| {
        format!("{}:{}", endpoint.transport, endpoint.reference.names().details)
    };
    let own = |level: &String| !level.starts_with("cannot copy `");
    let words = |level: String| match &*level {
        "source: opening it" => format!("initializing source {}", image(source)),
        "destination: opening it" => format!("initializing destination {}", image(destination)),
        level => {
            let bare =
                level.strip_prefix("source: ").or_else(|| level.strip_prefix("destination: "));
            bare.unwrap_or(level).to_owned()
        }
    };
    let messages: Vec<_> = error.chain().into_iter().filter(own).map(words).collect();
    if messages.is_empty() {
        return error;
    }
    levels::error(error.kind(), messages, error.hint())
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
