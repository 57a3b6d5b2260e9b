//! What cases work with: a scratch directory, the subject, and short ways to write and read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::Subject;
use super::drive::{self, Pulled};
use super::image::{Family, Image, Recipe, sha256, takes};
use crate::{
    Accepts, Committed, Digest, Error, ErrorKind, Host, ImageRef, PlatformChoice, Session, Source,
};

/// What a case found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Fails the case unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::conformance::bench::Failure::new(format!($($message)+)));
        }
    };
}

/// Says what was being done when a transport returned an error.
pub trait During<T> {
    fn during(self, what: &str) -> Result<T, Failure>;
}

impl<T> During<T> for Result<T, Error> {
    fn during(self, what: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(format!("{what}: {error:?}")))
    }
}

impl<T> During<T> for Result<T, std::io::Error> {
    fn during(self, what: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(format!("{what}: {error}")))
    }
}

/// Tells whether an error says that there is no such image.
///
/// `ImageNotFound` ends a command with exit code 2, as skopeo does where the storage is there and
/// the image is not; where the storage itself is missing, `NotFound` is right.
pub fn is_missing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ImageNotFound | ErrorKind::NotFound)
}

/// One case's place of work.
pub struct Bench<'a> {
    pub subject: &'a Subject,
    salt: u32,
    dir: PathBuf,
    temp_dir: PathBuf,
    _base: tempfile::TempDir,
}

impl<'a> Bench<'a> {
    pub fn new(subject: &'a Subject) -> Result<Self, Failure> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let base = tempfile::Builder::new()
            .prefix("diolkos-check-")
            .tempdir()
            .during("making a scratch directory")?;
        // Unique beyond this machine's file system: registries may outlive the directory.
        let hash = sha256(base.path().as_os_str().as_encoded_bytes());
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = base.path().join(format!("kit{}x{number}", hash.short()));
        let temp_dir = base.path().join("temporary");
        for path in [&dir, &temp_dir] {
            std::fs::create_dir(path).during("making a scratch directory")?;
        }
        let salt = u32::from_str_radix(&hash.hex()[..4], 16).expect("digits are hexadecimal");
        let salt = ((salt << 8) ^ number) << 8;
        Ok(Self { subject, salt, dir, temp_dir, _base: base })
    }

    /// Makes a seed the case's own: a storage that shares blobs between images must not know those
    /// of a case that ran before or runs beside it.
    pub fn seed(&self, n: u32) -> u32 {
        self.salt ^ n
    }

    pub fn temp_dir(&self) -> &Path {
        &self.temp_dir
    }

    pub fn details(&self, n: u32) -> String {
        self.subject.details(&self.dir, n)
    }

    pub fn session(&self) -> Session {
        self.session_with(Host::silent())
    }

    pub fn session_with(&self, host: Host) -> Session {
        Session {
            options: self.subject.options().clone(),
            platform: PlatformChoice::default(),
            temp_dir: self.temp_dir.clone(),
            host,
        }
    }

    pub fn reference(&self, n: u32) -> Result<Box<dyn ImageRef>, Failure> {
        let details = self.details(n);
        self.subject.transport().parse(&details).during(&format!("parsing `{details}`"))
    }

    pub fn accepts(&self) -> Result<Accepts, Failure> {
        let reference = self.reference(999)?;
        Ok(reference.create(&self.session()).during("opening a destination")?.accepts())
    }

    /// How images are made that the destination takes.
    pub fn recipe(&self) -> Result<Recipe, Failure> {
        let accepts = self.accepts()?;
        Recipe::for_destination(&accepts).ok_or_else(|| {
            Failure::new(format!(
                "the destination takes neither OCI nor Docker schema 2 manifests, only {}",
                accepts.manifest_types.join(", ")
            ))
        })
    }

    pub fn sample(&self, seed: u32) -> Result<Image, Failure> {
        Ok(Image::sample(self.recipe()?, self.seed(seed)))
    }

    /// An image of one family, `None` when the destination does not take it.
    pub fn sample_of(&self, family: Family, seed: u32) -> Result<Option<Image>, Failure> {
        let accepts = self.accepts()?;
        let recipe = Recipe::of_family(family, &accepts);
        Ok(takes(&accepts, family.manifest_type()).then(|| Image::sample(recipe, self.seed(seed))))
    }

    pub fn push(&self, n: u32, image: &Image) -> Result<Committed, Failure> {
        self.try_push(n, image)?.during(&format!("writing image {n}"))
    }

    pub fn try_push(&self, n: u32, image: &Image) -> Result<crate::Result<Committed>, Failure> {
        let reference = self.reference(n)?;
        Ok(drive::push(&*reference, &self.session(), image, &[]))
    }

    pub fn try_pull(&self, n: u32) -> Result<crate::Result<Pulled>, Failure> {
        let reference = self.reference(n)?;
        Ok(drive::pull(&*reference, &self.session(), None))
    }

    pub fn open(&self, n: u32) -> Result<Box<dyn Source>, Failure> {
        self.reference(n)?.open(&self.session()).during(&format!("opening image {n}"))
    }

    /// Makes image `n` readable: writes a sample, or has it put there.
    pub fn provide(&self, n: u32) -> Result<(), Failure> {
        if let Some(put) = self.subject.images() {
            return put(&self.details(n)).during("preparing an image");
        }
        self.push(n, &self.sample(n + 1)?).map(drop)
    }

    /// Checks that reading gives this image. Where reading is not possible, nothing is known.
    pub fn expect(&self, n: u32, image: &Image) -> Result<(), Failure> {
        if !self.subject.capabilities().source {
            return Ok(());
        }
        let pulled = self.try_pull(n)?.during(&format!("reading image {n}"))?;
        self.compare(&pulled, image).map_err(|failure| Failure(format!("image {n}: {failure}")))
    }

    /// Checks that what was read is this image.
    pub fn compare(&self, pulled: &Pulled, image: &Image) -> Result<(), Failure> {
        if !self.subject.capabilities().rebuilds_manifests {
            ensure!(
                pulled.manifest.bytes == image.manifest.bytes,
                "the manifest differs: wrote {}, read {}",
                image.digest(),
                sha256(&pulled.manifest.bytes)
            );
            let media_type = &pulled.manifest.media_type;
            ensure!(
                media_type.is_empty() || *media_type == image.manifest.media_type,
                "the manifest's type was `{}`, now it is `{media_type}`",
                image.manifest.media_type
            );
        }
        let written: Vec<_> = [&image.config].into_iter().chain(&image.layers).collect();
        ensure!(
            pulled.blobs.len() == written.len(),
            "there were {} blobs, now there are {}",
            written.len(),
            pulled.blobs.len()
        );
        for ((descriptor, bytes), content) in pulled.blobs.iter().zip(written) {
            ensure!(
                sha256(bytes) == descriptor.digest
                    || descriptor.digest.algorithm() != crate::Algorithm::Sha256,
                "blob {} does not have the digest it was asked by",
                descriptor.digest
            );
            // A storage may keep a layer in another form; its diff ID is then the same.
            let same = *bytes == content.bytes || Some(sha256(bytes)) == content.diff_id;
            ensure!(same, "{:?} differs from what was written", content.role);
        }
        Ok(())
    }

    /// Checks that there is no image.
    pub fn expect_missing(&self, n: u32) -> Result<(), Failure> {
        if !self.subject.capabilities().source {
            return Ok(());
        }
        match self.try_manifest(n)? {
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(Failure::new(format!(
                "image {n} is not there, and the error should be of kind ImageNotFound or NotFound: \
                 {error:?}"
            ))),
            Ok(digest) => Err(Failure::new(format!("image {n} should not be there: {digest}"))),
        }
    }

    /// The digest of image `n`'s manifest, or why there is none.
    pub fn try_manifest(&self, n: u32) -> Result<crate::Result<Digest>, Failure> {
        let reference = self.reference(n)?;
        Ok(reference
            .open(&self.session())
            .and_then(|source| source.manifest(None))
            .map(|manifest| sha256(&manifest.bytes)))
    }
}
