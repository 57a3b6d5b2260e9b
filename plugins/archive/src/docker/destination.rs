//! Writing an image into an archive.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diolkos_formats::docker_archive::{self, Blobs, config_name, layer_name, to_json};
use diolkos_formats::tar::Member;
use diolkos_sdk::model::media_type;
use diolkos_sdk::{
    Accepts, BlobIncoming, BlobRole, BlobWanted, BlobWriter, Committed, Descriptor, Destination,
    Digest, Error, ErrorKind, LayerForm, RawManifest, Reference, Result, Session, TopLevel,
};

use super::legacy::{Legacy, Repositories};
use crate::output::Output;

/// An image that is written.
pub(crate) struct ArchiveDestination {
    output: Output,
    tags: Vec<Reference>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// What the archive has by now.
    members: HashMap<Digest, Member>,
    blobs: Option<Blobs>,
}

impl ArchiveDestination {
    /// Prepares an archive.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] where there is one already.
    pub fn create(path: &str, tags: Vec<Reference>, session: &Session) -> Result<Self> {
        let path = Path::new(path);
        if fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0) {
            let message = "docker-archive doesn't support modifying existing images";
            return Err(Error::new(ErrorKind::Conflict, message)
                .with_hint(format!("remove `{}`, or choose another path", path.display())));
        }
        Ok(Self { output: Output::create(path, session)?, tags, state: Arc::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Destination for ArchiveDestination {
    fn accepts(&self) -> Accepts {
        Accepts {
            manifest_types: vec![media_type::DOCKER_V2S2.into()],
            layer_form: LayerForm::Decompress,
            signatures: Err("Storing signatures for docker tar files is not supported".into()),
            several_images: false,
            foreign_layers: false,
            parallel_blobs: false,
            needs_size: false,
        }
    }

    fn reuse(&self, wanted: &BlobWanted) -> Result<Option<Descriptor>> {
        let state = self.state();
        let member = state.members.get(&wanted.blob.digest);
        Ok(member.map(|member| Descriptor { size: Some(member.size), ..wanted.blob.clone() }))
    }

    fn put_blob(&self, blob: &BlobIncoming) -> Result<Option<Box<dyn BlobWriter>>> {
        if let Some(digest) = &blob.digest
            && self.state().members.contains_key(digest)
        {
            return Ok(None);
        }
        let (state, role) = (Arc::clone(&self.state), blob.role);
        let writer = self.output.tar.member(false, move |sums, member| {
            lock(&state).members.insert(sums.digest.clone(), member);
            Ok(match role {
                BlobRole::Config => config_name(&sums.digest),
                BlobRole::Layer(_) => layer_name(&sums.digest),
            })
        })?;
        Ok(Some(Box::new(writer)))
    }

    fn put_manifest(&self, manifest: &RawManifest, instance: Option<&Digest>) -> Result<()> {
        if instance.is_some() {
            let message = "Manifest lists are not supported for docker tar files";
            return Err(Error::unsupported(message));
        }
        let blobs = Blobs::of(manifest)?;
        self.state().blobs = Some(blobs);
        Ok(())
    }

    fn commit(self: Box<Self>, _: &TopLevel) -> Result<Committed> {
        let tar = Arc::clone(&self.output.tar);
        let (blobs, config) = {
            let mut state = self.state();
            let blobs = state.blobs.take().ok_or_else(|| {
                Error::new(ErrorKind::Internal, "commit of an archive without manifest")
            })?;
            let config = state.members.get(&blobs.config).copied().ok_or_else(|| {
                Error::new(ErrorKind::Internal, "commit of an archive without config")
            })?;
            (blobs, tar.read(config)?)
        };
        let layers: Vec<&Digest> = blobs.layers.iter().collect();
        let mut repositories = Repositories::default();
        let legacy = Legacy::of(&layers, &config)?;
        legacy.write(&tar, layer_name)?;
        let mut repo_tags = Vec::new();
        for tag in &self.tags {
            repositories.add(tag, legacy.top());
            let text = tag.to_string();
            if !repo_tags.contains(&text) {
                repo_tags.push(text);
            }
        }
        let list = [blobs.entry(repo_tags)];
        tar.add(docker_archive::NAME, &to_json(&list)?)?;
        tar.add("repositories", &to_json(&repositories)?)?;
        drop(tar);
        self.output.commit()?;
        Ok(Committed::default())
    }
}
