//! Writing an image into an archive.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diolkos_formats::bytes::to_json;
use diolkos_formats::docker_archive::{self, Blobs, config_name, layer_name};
use diolkos_formats::tar::Member;
use diolkos_sdk::{
    Accepts, BlobIncoming, BlobRole, BlobWanted, BlobWriter, Committed, Descriptor, Destination,
    Digest, Error, ErrorKind, Host, LayerForm, RawManifest, Reference, Result, Session, TopLevel,
};

use super::append::Existing;
use super::legacy::{Legacy, REPOSITORIES};
use crate::output::Output;

/// An image that is written.
pub(crate) struct ArchiveDestination {
    output: Output,
    path: PathBuf,
    tags: Vec<Reference>,
    /// The images that it is added to.
    existing: Arc<Existing>,
    host: Host,
    /// Whether there was a file that is replaced.
    replaces: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// What the archive has by now, and under which names.
    members: HashMap<Digest, (Member, String)>,
    /// What it had before, as long as nobody has looked whether that is true.
    unproven: HashMap<Digest, (Member, String)>,
    blobs: Option<Blobs>,
}

impl ArchiveDestination {
    /// Prepares an archive, or with `append` to add an image to one.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] where there is one already, if it is not to be added to; those of
    /// [`Existing::take_over`].
    pub fn create(
        path: &str,
        tags: Vec<Reference>,
        append: bool,
        session: &Session,
    ) -> Result<Self> {
        let path = Path::new(path);
        // Looked at once: what appears later is somebody else's.
        let found = fs::metadata(path).ok();
        let replaces = found.is_some();
        let is_there = found.is_some_and(|found| found.is_file() && found.len() > 0);
        if is_there && !append {
            let message = "docker-archive doesn't support modifying existing images";
            return Err(Error::new(ErrorKind::Conflict, message).with_hint(format!(
                "remove `{}`, choose another path, or add the image to it with --append",
                path.display()
            )));
        }
        let output = Output::create(path, session)?;
        let mut existing = if is_there {
            Existing::take_over(path, &output, session).map_err(|error| {
                error.context(format!("cannot add an image to `{}`", path.display()))
            })?
        } else {
            Existing::default()
        };
        let state = State { unproven: std::mem::take(&mut existing.blobs), ..State::default() };
        Ok(Self {
            output,
            path: path.to_owned(),
            tags,
            existing: Arc::new(existing),
            host: session.host.clone(),
            replaces,
            state: Arc::new(Mutex::new(state)),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// Tells where a blob is that the archive has, after a look at it if it was there before.
    fn find(
        &mut self,
        digest: &Digest,
        existing: &Existing,
        host: &Host,
    ) -> Result<Option<Member>> {
        if let Some((member, name)) = self.unproven.remove(digest)
            && existing.is_sound(digest, member, host)?
        {
            self.members.insert(digest.clone(), (member, name));
        }
        Ok(self.members.get(digest).map(|(member, _)| *member))
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Destination for ArchiveDestination {
    fn accepts(&self) -> Accepts {
        docker_archive::accepts(LayerForm::Decompress, false)
    }

    fn reuse(&self, wanted: &BlobWanted) -> Result<Option<Descriptor>> {
        let found = self.state().find(&wanted.blob.digest, &self.existing, &self.host)?;
        Ok(found.map(|member| Descriptor { size: Some(member.size), ..wanted.blob.clone() }))
    }

    fn put_blob(&self, blob: &BlobIncoming) -> Result<Option<Box<dyn BlobWriter>>> {
        if let Some(digest) = &blob.digest
            && self.state().find(digest, &self.existing, &self.host)?.is_some()
        {
            return Ok(None);
        }
        let (state, role) = (Arc::clone(&self.state), blob.role);
        let (existing, host) = (Arc::clone(&self.existing), self.host.clone());
        let writer = self.output.tar.member(false, move |sums, member| {
            let mut state = lock(&state);
            // A layer that was decompressed on the way may turn out to be there.
            if state.find(&sums.digest, &existing, &host)?.is_some() {
                return Ok(None);
            }
            let mut name = match role {
                BlobRole::Config => config_name(&sums.digest),
                BlobRole::Layer(_) => layer_name(&sums.digest),
            };
            // What has that name is not what it says.
            while existing.has(&name) {
                name = format!("_{name}");
            }
            state.members.insert(sums.digest.clone(), (member, name.clone()));
            Ok(Some(name))
        })?;
        Ok(Some(Box::new(writer)))
    }

    fn put_manifest(&self, manifest: &RawManifest, instance: Option<&Digest>) -> Result<()> {
        let blobs = Blobs::of(manifest, instance)?;
        self.state().blobs = Some(blobs);
        Ok(())
    }

    fn commit(self: Box<Self>, _: &TopLevel) -> Result<Committed> {
        let tar = Arc::clone(&self.output.tar);
        let mut state = std::mem::take(&mut *self.state());
        let missing = |what: &str| {
            Error::new(ErrorKind::Internal, format!("commit of an archive without {what}"))
        };
        let blobs = state.blobs.take().ok_or_else(|| missing("manifest"))?;
        let find =
            |digest: &Digest| state.members.get(digest).ok_or_else(|| missing(digest.as_str()));
        let name = |digest: &Digest| find(digest).map(|(_, name)| name.clone());
        let config = tar.read(find(&blobs.config)?.0)?;
        let layers: Vec<&Digest> = blobs.layers.iter().collect();
        let mut repositories = self.existing.repositories.clone();
        let legacy = Legacy::of(&layers, &config)?;
        legacy.write(&tar, name, |file| self.existing.has(file))?;
        let mut repo_tags = Vec::new();
        for tag in &self.tags {
            repositories.add(tag, legacy.top());
            let text = tag.to_string();
            if !repo_tags.contains(&text) {
                repo_tags.push(text);
            }
        }
        let list = self.existing.add(blobs.entry(repo_tags, name)?);
        tar.add(docker_archive::NAME, &to_json(&list)?)?;
        tar.add(REPOSITORIES, &to_json(&repositories)?)?;
        drop(tar);
        self.existing.check(&self.path)?;
        self.output.commit(self.replaces)?;
        Ok(Committed::default())
    }
}
