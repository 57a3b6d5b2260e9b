//! Logging in to registries: the answers to the SDK's login extension.
//!
//! A password is kept only after the registry has taken it. Where and how it is kept is in
//! [`crate::credentials`].

use diolkos_sdk::aio::Runtime;
use diolkos_sdk::login::{self, LoggedOut, Login, Logins, Place};
use diolkos_sdk::{Error, ErrorKind, Host, Result, ResultExt, Session};
use reqwest::{Method, StatusCode};

use crate::auth::{Auth, Purse};
use crate::client::Client;
use crate::config::places::Places;
use crate::config::registries_conf::RegistriesConf;
use crate::credentials::{self, AuthFiles, Found, Identity, Lookup, Removed};
use crate::message::{self, Request, Target};
use crate::options::{Credentials, Options, Secret};

/// The logins of all registries.
pub(crate) struct DockerLogins;

impl Logins for DockerLogins {
    fn place(&self, written: &str) -> Result<Place> {
        credentials::parse_argument(written)
    }

    fn find(&self, place: &Place, session: &Session) -> Result<Option<Login>> {
        let found = with_lookup(session, &session.host, |lookup| find(&lookup, place))?;
        Ok(found.map(|found| {
            let has_password = match &found.identity {
                Identity::Password(who) => !who.password.reveal().is_empty(),
                Identity::Token(_) => false,
            };
            let has_identity_token = matches!(found.identity, Identity::Token(_));
            let Found { username, origin, .. } = found;
            Login { username, has_password, has_identity_token, origin }
        }))
    }

    fn check(&self, place: &Place, session: &Session) -> Result<bool> {
        let found = with_lookup(session, &Host::silent(), |lookup| find(&lookup, place))?;
        let Some(Found { identity: Identity::Password(who), .. }) = found else {
            return Ok(false);
        };
        match ask_registry(place, &who, session) {
            Ok(()) => Ok(true),
            Err(error) => {
                let why = error.chain().join(": ");
                session.host.debug(format!("the credentials for {} are no good: {why}", place.key));
                Ok(false)
            }
        }
    }

    fn log_in(&self, place: &Place, who: &login::Credentials, session: &Session) -> Result<String> {
        let who = Credentials {
            username: who.username.clone(),
            password: Secret::new(who.password.reveal()),
        };
        ask_registry(place, &who, session).map_err(|error| {
            if error.kind() == ErrorKind::Unauthorized {
                session.host.debug(error.chain().join(": "));
                let message = format!("logging into {:?}: invalid username/password", place.key);
                return Error::new(ErrorKind::Unauthorized, message);
            }
            error.context(format!("authenticating creds for {:?}", place.key))
        })?;
        with_lookup(session, &Host::silent(), |lookup| lookup.store(&place.key, &who))
    }

    fn log_out(&self, place: &Place, session: &Session) -> Result<LoggedOut> {
        check_files(session)?;
        let removed = with_lookup(session, &session.host, |lookup| lookup.remove(&place.key))
            .context(|| format!("logging out of {:?}", place.key))?;
        if removed == Removed::Yes {
            return Ok(LoggedOut::Removed);
        }
        // There may be a login in a file that is not ours to change.
        Ok(if self.check(place, session)? {
            LoggedOut::KeptBy("docker".into())
        } else {
            LoggedOut::WasNotLoggedIn
        })
    }

    fn log_out_of_all(&self, session: &Session) -> Result<()> {
        check_files(session)?;
        with_lookup(session, &session.host, |lookup| lookup.remove_all())
    }
}

/// Does something with the files of credentials. What is odd about the choice of them is told to
/// `listener`: one command may come here twice, and says it once.
fn with_lookup<T>(
    session: &Session,
    listener: &Host,
    work: impl FnOnce(Lookup<'_>) -> Result<T>,
) -> Result<T> {
    let options = &session.options;
    let places = Places::current();
    let (auth_file, compat) = (options.get("authfile"), options.get("compat-auth-file"));
    let files = AuthFiles::for_logins(auth_file, compat, &places, listener)?;
    let conf = RegistriesConf::load(&places, Options::of(session)?.registries_conf.as_deref())?;
    let helpers = conf.credential_helpers();
    work(Lookup { places: &places, files: &files, helpers, host: &session.host })
}

fn find(lookup: &Lookup<'_>, place: &Place) -> Result<Option<Found>> {
    Ok(lookup.find(&place.key).context(|| "get credentials")?.found())
}

/// Refuses to log out by a file that was named and is not there.
fn check_files(session: &Session) -> Result<()> {
    ["authfile", "compat-auth-file"]
        .into_iter()
        .try_for_each(|name| credentials::check_exists(session.options.get(name)))
}

/// Asks a registry whether it takes a password.
fn ask_registry(place: &Place, who: &Credentials, session: &Session) -> Result<()> {
    let mut options = Options::of(session)?;
    options.registry_token = None;
    let conf = RegistriesConf::load(&Places::current(), options.registries_conf.as_deref())?;
    let verify = options.tls_verify.unwrap_or(!conf.check_host(&place.registry)?);
    let host = &session.host;
    // Nothing is shared with what was learnt before: these credentials are to be tried.
    let client = Client::new(&place.registry, verify, &options, host)?;
    let purse = Purse::Given(Some(who.clone()));
    let auth = Auth::new(purse, &options, client.challenge.clone());
    Runtime::new("docker-login")?.block_on(host, async {
        let ping = Request::new(Method::GET, Target::Path("/v2/".into()));
        let response = client.send(&auth, host, ping).await?;
        match response.status() {
            StatusCode::OK => Ok(()),
            _ => Err(message::failure(response).await),
        }
    })
}
