//! From an image name on the command line to an [`Endpoint`]: the only place that loads a plugin.

use clap::ArgMatches;
use diolkos_sdk::{Error, ErrorKind, Result, Session};

use super::context::Context;
use super::flags::{Given, Images, one};
use super::values::quote;
use crate::copy::Endpoint;
use crate::levels;
use crate::plugin::Side;

/// An image name that was parsed by its transport, and nothing more.
pub struct Parsed {
    name: String,
    transport: String,
    reference: Box<dyn diolkos_sdk::ImageRef>,
}

/// Splits an image name into its transport and what follows.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] when there is no colon.
pub fn split(name: &str) -> Result<(&str, &str)> {
    name.split_once(':').ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidInput,
            format!(
                "Invalid image name {}, expected colon-separated transport:reference",
                quote(name)
            ),
        )
    })
}

/// Parses an image name, loading the plugin of its transport.
///
/// # Errors
/// The name has no transport or an unknown one, the plugin cannot be loaded, or the transport
/// refuses the name.
pub fn parse(context: &Context, name: &str) -> Result<Parsed> {
    let (transport, details) = split(name)?;
    let unknown = context.transports.provider(transport).is_none();
    let loaded = context.transports.load(transport).map_err(|error| {
        if !unknown {
            return error;
        }
        // The causes stay: they name the plugins that there are and the places searched.
        let mut messages = error.chain();
        messages[0] = format!("Invalid image name {}, {}", quote(name), messages[0]);
        levels::error(error.kind(), messages, error.hint())
    })?;
    let reference = loaded.parse(details)?;
    Ok(Parsed { name: name.to_owned(), transport: transport.to_owned(), reference })
}

impl Parsed {
    /// Adds the options of the image's side of the command.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when options exclude each other.
    pub fn with_options(
        self,
        context: &Context,
        command: &str,
        images: Images,
        side: Side,
        matches: &ArgMatches,
    ) -> Result<Endpoint> {
        let own_tls_verify = (images == Images::Two).then(|| one(matches, "tls-verify")).flatten();
        let given = Given {
            command,
            images,
            side,
            matches,
            old_tls_verify: own_tls_verify.or(context.globals.tls_verify),
        };
        // Flags that exclude each other are wrong even where the image's transport has neither.
        for (transport, _) in context.transports.usable() {
            given.options(transport)?;
        }
        let transport = context.transports.find(&self.transport);
        let options = transport.map(|transport| given.options(transport)).transpose()?;
        Ok(Endpoint {
            name: self.name,
            transport: self.transport,
            reference: self.reference,
            session: Session {
                options: options.unwrap_or_default(),
                platform: context.globals.platform.clone(),
                temp_dir: context.globals.temp_dir.clone(),
                host: context.host.clone(),
            },
        })
    }
    /// Adds the options of a command that names one image.
    ///
    /// # Errors
    /// As [`Parsed::with_options`].
    pub fn with_one_side(
        self,
        context: &Context,
        command: &str,
        matches: &ArgMatches,
    ) -> Result<Endpoint> {
        self.with_options(context, command, Images::One, Side::Source, matches)
    }
}
