//! Plain data that crosses, and its conversion from and to the model.
//!
//! Layouts are frozen. Whoever receives data checks it: text that must be a digest is parsed again.

use std::path::PathBuf;
use std::time::Duration;

use abi_stable::StableAbi;
use abi_stable::std_types::{ROption, RResult, RString, RVec, Tuple2};

use crate::model::{
    Descriptor, Digest, Error, ErrorKind, Platform, RawManifest, Result, Signature, SignatureFormat,
};
use crate::session::{LogLevel, Options, PlatformChoice};
use crate::transport::{
    Accepts, BlobCandidate, BlobIncoming, BlobRole, BlobSums, BlobWanted, Committed, LayerForm,
    Location, Names, Tags, TopLevel,
};

pub type AbiResult<T> = RResult<T, AbiError>;

/// Turns a value into its ABI form and back; back can fail, since the other side is not trusted.
pub trait Cross: Sized {
    type Abi;
    fn into_abi(self) -> Self::Abi;
    fn from_abi(abi: Self::Abi) -> Result<Self>;
}

pub fn to_abi_result<T: Cross>(result: Result<T>) -> AbiResult<T::Abi> {
    match result {
        Ok(value) => RResult::ROk(value.into_abi()),
        Err(error) => RResult::RErr(AbiError::from(error)),
    }
}

pub fn from_abi_result<T: Cross>(result: AbiResult<T::Abi>) -> Result<T> {
    match result {
        RResult::ROk(value) => T::from_abi(value),
        RResult::RErr(error) => Err(error.into()),
    }
}

/// A named value that ABI 1.0 does not know; either side may ignore it.
#[repr(C)]
#[derive(StableAbi)]
pub struct AbiExtra {
    pub name: RString,
    pub value: RVec<u8>,
}

type AbiExtras = RVec<AbiExtra>;

/// An error; the kind is a number because kinds may be added.
#[repr(C)]
#[derive(StableAbi)]
pub struct AbiError {
    kind: u32,
    message: RString,
    causes: RVec<RString>,
    hint: ROption<RString>,
    retry_after_ms: ROption<u64>,
    extras: AbiExtras,
}

impl From<Error> for AbiError {
    fn from(error: Error) -> Self {
        let mut messages = error.chain().into_iter().map(RString::from);
        Self {
            kind: error.kind().code(),
            message: messages.next().unwrap_or_default(),
            causes: messages.collect(),
            hint: error.hint().map(RString::from).into(),
            retry_after_ms: error
                .retry_after()
                .map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
                .into(),
            extras: RVec::new(),
        }
    }
}

impl From<AbiError> for Error {
    fn from(abi: AbiError) -> Self {
        let kind = ErrorKind::from_code(abi.kind);
        let mut source: Option<Error> = None;
        for message in abi.causes.into_iter().rev() {
            let cause = Error::new(kind, message.into_string());
            source = Some(match source {
                Some(below) => cause.with_source(below),
                None => cause,
            });
        }
        let mut error = Error::new(kind, abi.message.into_string());
        if let Some(source) = source {
            error = error.with_source(source);
        }
        if let ROption::RSome(hint) = abi.hint {
            error = error.with_hint(hint.into_string());
        }
        if let ROption::RSome(delay) = abi.retry_after_ms {
            error = error.with_retry_after(Duration::from_millis(delay));
        }
        error
    }
}

impl Cross for () {
    type Abi = ();
    fn into_abi(self) {}
    fn from_abi((): ()) -> Result<Self> {
        Ok(())
    }
}

impl Cross for usize {
    type Abi = usize;
    fn into_abi(self) -> usize {
        self
    }
    fn from_abi(abi: usize) -> Result<Self> {
        Ok(abi)
    }
}

impl Cross for String {
    type Abi = RString;
    fn into_abi(self) -> RString {
        self.into()
    }
    fn from_abi(abi: RString) -> Result<Self> {
        Ok(abi.into_string())
    }
}

impl Cross for Vec<u8> {
    type Abi = RVec<u8>;
    fn into_abi(self) -> RVec<u8> {
        self.into()
    }
    fn from_abi(abi: RVec<u8>) -> Result<Self> {
        Ok(abi.into_vec())
    }
}

impl Cross for Digest {
    type Abi = RString;
    fn into_abi(self) -> RString {
        self.as_str().into()
    }
    fn from_abi(abi: RString) -> Result<Self> {
        abi.parse()
    }
}

impl<T: Cross> Cross for Option<T> {
    type Abi = ROption<T::Abi>;
    fn into_abi(self) -> Self::Abi {
        self.map(T::into_abi).into()
    }
    fn from_abi(abi: Self::Abi) -> Result<Self> {
        match abi {
            ROption::RSome(value) => T::from_abi(value).map(Some),
            ROption::RNone => Ok(None),
        }
    }
}

fn list_to<T: Cross>(list: Vec<T>) -> RVec<T::Abi> {
    list.into_iter().map(T::into_abi).collect()
}

fn list_from<T: Cross>(list: RVec<T::Abi>) -> Result<Vec<T>> {
    list.into_iter().map(T::from_abi).collect()
}

macro_rules! list_crosses {
    ($($item:ty),*) => {$(
        impl Cross for Vec<$item> {
            type Abi = RVec<<$item as Cross>::Abi>;
            fn into_abi(self) -> Self::Abi {
                list_to(self)
            }
            fn from_abi(abi: Self::Abi) -> Result<Self> {
                list_from(abi)
            }
        }
    )*};
}

list_crosses!(String, Descriptor, Signature, Location, BlobCandidate);

#[repr(C)]
#[derive(StableAbi)]
pub struct AbiPlatform {
    architecture: RString,
    os: RString,
    os_version: RString,
    os_features: RVec<RString>,
    variant: RString,
    features: RVec<RString>,
}

impl Cross for Platform {
    type Abi = AbiPlatform;
    fn into_abi(self) -> AbiPlatform {
        AbiPlatform {
            architecture: self.architecture.into(),
            os: self.os.into(),
            os_version: self.os_version.into(),
            os_features: self.os_features.into_abi(),
            variant: self.variant.into(),
            features: self.features.into_abi(),
        }
    }
    fn from_abi(abi: AbiPlatform) -> Result<Self> {
        Ok(Self {
            architecture: abi.architecture.into_string(),
            os: abi.os.into_string(),
            os_version: abi.os_version.into_string(),
            os_features: Vec::from_abi(abi.os_features)?,
            variant: abi.variant.into_string(),
            features: Vec::from_abi(abi.features)?,
        })
    }
}

#[repr(C)]
#[derive(StableAbi)]
pub struct AbiDescriptor {
    media_type: RString,
    digest: RString,
    size: ROption<u64>,
    urls: RVec<RString>,
    annotations: RVec<Tuple2<RString, RString>>,
    data: ROption<RString>,
    platform: ROption<AbiPlatform>,
    artifact_type: ROption<RString>,
    extras: AbiExtras,
}

impl Cross for Descriptor {
    type Abi = AbiDescriptor;
    fn into_abi(self) -> AbiDescriptor {
        AbiDescriptor {
            media_type: self.media_type.into(),
            digest: self.digest.into_abi(),
            size: self.size.into(),
            urls: self.urls.into_abi(),
            annotations: self
                .annotations
                .into_iter()
                .map(|(key, value)| Tuple2(key.into(), value.into()))
                .collect(),
            data: self.data.into_abi(),
            platform: self.platform.into_abi(),
            artifact_type: self.artifact_type.into_abi(),
            extras: RVec::new(),
        }
    }
    fn from_abi(abi: AbiDescriptor) -> Result<Self> {
        Ok(Self {
            media_type: abi.media_type.into_string(),
            digest: Digest::from_abi(abi.digest)?,
            size: abi.size.into(),
            urls: Vec::from_abi(abi.urls)?,
            annotations: abi
                .annotations
                .into_iter()
                .map(|Tuple2(key, value)| (key.into_string(), value.into_string()))
                .collect(),
            data: Option::from_abi(abi.data)?,
            platform: Option::from_abi(abi.platform)?,
            artifact_type: Option::from_abi(abi.artifact_type)?,
        })
    }
}

#[repr(C)]
#[derive(StableAbi)]
pub struct AbiManifest {
    bytes: RVec<u8>,
    media_type: RString,
    extras: AbiExtras,
}

impl Cross for RawManifest {
    type Abi = AbiManifest;
    fn into_abi(self) -> AbiManifest {
        AbiManifest {
            bytes: self.bytes.into(),
            media_type: self.media_type.into(),
            extras: RVec::new(),
        }
    }
    fn from_abi(abi: AbiManifest) -> Result<Self> {
        Ok(Self::new(abi.bytes.into_vec(), abi.media_type.into_string()))
    }
}

#[repr(C)]
#[derive(StableAbi)]
pub struct AbiSignature {
    format: RString,
    bytes: RVec<u8>,
    extras: AbiExtras,
}

impl Cross for Signature {
    type Abi = AbiSignature;
    fn into_abi(self) -> AbiSignature {
        AbiSignature {
            format: self.format.name().into(),
            bytes: self.bytes.into(),
            extras: RVec::new(),
        }
    }
    fn from_abi(abi: AbiSignature) -> Result<Self> {
        Ok(Self { format: SignatureFormat::from_name(&abi.format), bytes: abi.bytes.into_vec() })
    }
}

#[repr(C)]
#[derive(StableAbi)]
pub struct AbiLocation {
    scope: RString,
    place: RString,
}

impl Cross for Location {
    type Abi = AbiLocation;
    fn into_abi(self) -> AbiLocation {
        AbiLocation { scope: self.scope.into(), place: self.place.into() }
    }
    fn from_abi(abi: AbiLocation) -> Result<Self> {
        Ok(Self { scope: abi.scope.into_string(), place: abi.place.into_string() })
    }
}

#[repr(C)]
#[derive(StableAbi)]
pub struct AbiNames {
    details: RString,
    docker_reference: ROption<RString>,
    policy_identity: RString,
    policy_namespaces: RVec<RString>,
    location: ROption<AbiLocation>,
    extras: AbiExtras,
}

impl Cross for Names {
    type Abi = AbiNames;
    fn into_abi(self) -> AbiNames {
        AbiNames {
            details: self.details.into(),
            docker_reference: self.docker_reference.into_abi(),
            policy_identity: self.policy_identity.into(),
            policy_namespaces: self.policy_namespaces.into_abi(),
            location: self.location.into_abi(),
            extras: RVec::new(),
        }
    }
    fn from_abi(abi: AbiNames) -> Result<Self> {
        Ok(Self {
            details: abi.details.into_string(),
            docker_reference: Option::from_abi(abi.docker_reference)?,
            policy_identity: abi.policy_identity.into_string(),
            policy_namespaces: Vec::from_abi(abi.policy_namespaces)?,
            location: Option::from_abi(abi.location)?,
        })
    }
}

#[repr(C)]
#[derive(StableAbi)]
pub struct AbiTags {
    repository: RString,
    tags: RVec<RString>,
    extras: AbiExtras,
}

impl Cross for Tags {
    type Abi = AbiTags;
    fn into_abi(self) -> AbiTags {
        AbiTags {
            repository: self.repository.into(),
            tags: self.tags.into_abi(),
            extras: RVec::new(),
        }
    }
    fn from_abi(abi: AbiTags) -> Result<Self> {
        Ok(Self { repository: abi.repository.into_string(), tags: Vec::from_abi(abi.tags)? })
    }
}

#[repr(C)]
#[derive(StableAbi)]
pub struct AbiAccepts {
    manifest_types: RVec<RString>,
    layer_form: u32,
    /// `RNone`: signatures are kept; otherwise why not.
    no_signatures: ROption<RString>,
    several_images: bool,
    foreign_layers: bool,
    parallel_blobs: bool,
    needs_size: bool,
    extras: AbiExtras,
}

impl Cross for Accepts {
    type Abi = AbiAccepts;
    fn into_abi(self) -> AbiAccepts {
        AbiAccepts {
            manifest_types: self.manifest_types.into_abi(),
            layer_form: match self.layer_form {
                LayerForm::Preserve => 1,
                LayerForm::Compress => 2,
                LayerForm::Decompress => 3,
            },
            no_signatures: self.signatures.err().into_abi(),
            several_images: self.several_images,
            foreign_layers: self.foreign_layers,
            parallel_blobs: self.parallel_blobs,
            needs_size: self.needs_size,
            extras: RVec::new(),
        }
    }
    fn from_abi(abi: AbiAccepts) -> Result<Self> {
        Ok(Self {
            manifest_types: Vec::from_abi(abi.manifest_types)?,
            layer_form: match abi.layer_form {
                2 => LayerForm::Compress,
                3 => LayerForm::Decompress,
                // A form from a newer plugin: leaving layers alone is always right.
                _ => LayerForm::Preserve,
            },
            signatures: match Option::<String>::from_abi(abi.no_signatures)? {
                None => Ok(()),
                Some(why) => Err(why),
            },
            several_images: abi.several_images,
            foreign_layers: abi.foreign_layers,
            parallel_blobs: abi.parallel_blobs,
            needs_size: abi.needs_size,
        })
    }
}

/// What a blob is: 1 config, 2 layer with its index.
#[repr(C)]
#[derive(StableAbi)]
pub struct AbiRole {
    kind: u32,
    index: u32,
}

impl Cross for BlobRole {
    type Abi = AbiRole;
    fn into_abi(self) -> AbiRole {
        match self {
            Self::Config => AbiRole { kind: 1, index: 0 },
            Self::Layer(index) => AbiRole { kind: 2, index },
        }
    }
    fn from_abi(abi: AbiRole) -> Result<Self> {
        Ok(if abi.kind == 1 { Self::Config } else { Self::Layer(abi.index) })
    }
}

#[repr(C)]
#[derive(StableAbi)]
pub struct AbiCandidate {
    blob: AbiDescriptor,
    location: ROption<AbiLocation>,
}

impl Cross for BlobCandidate {
    type Abi = AbiCandidate;
    fn into_abi(self) -> AbiCandidate {
        AbiCandidate { blob: self.blob.into_abi(), location: self.location.into_abi() }
    }
    fn from_abi(abi: AbiCandidate) -> Result<Self> {
        Ok(Self {
            blob: Descriptor::from_abi(abi.blob)?,
            location: Option::from_abi(abi.location)?,
        })
    }
}

#[repr(C)]
#[derive(StableAbi)]
pub struct AbiWanted {
    blob: AbiDescriptor,
    role: AbiRole,
    candidates: RVec<AbiCandidate>,
    probably_new: bool,
    extras: AbiExtras,
}

impl Cross for BlobWanted {
    type Abi = AbiWanted;
    fn into_abi(self) -> AbiWanted {
        AbiWanted {
            blob: self.blob.into_abi(),
            role: self.role.into_abi(),
            candidates: self.candidates.into_abi(),
            probably_new: self.probably_new,
            extras: RVec::new(),
        }
    }
    fn from_abi(abi: AbiWanted) -> Result<Self> {
        Ok(Self {
            blob: Descriptor::from_abi(abi.blob)?,
            role: BlobRole::from_abi(abi.role)?,
            candidates: Vec::from_abi(abi.candidates)?,
            probably_new: abi.probably_new,
        })
    }
}

#[repr(C)]
#[derive(StableAbi)]
pub struct AbiIncoming {
    digest: ROption<RString>,
    size: ROption<u64>,
    media_type: RString,
    role: AbiRole,
    locations: RVec<AbiLocation>,
    extras: AbiExtras,
}

impl Cross for BlobIncoming {
    type Abi = AbiIncoming;
    fn into_abi(self) -> AbiIncoming {
        AbiIncoming {
            digest: self.digest.into_abi(),
            size: self.size.into(),
            media_type: self.media_type.into(),
            role: self.role.into_abi(),
            locations: self.locations.into_abi(),
            extras: RVec::new(),
        }
    }
    fn from_abi(abi: AbiIncoming) -> Result<Self> {
        Ok(Self {
            digest: Option::from_abi(abi.digest)?,
            size: abi.size.into(),
            media_type: abi.media_type.into_string(),
            role: BlobRole::from_abi(abi.role)?,
            locations: Vec::from_abi(abi.locations)?,
        })
    }
}

#[repr(C)]
#[derive(StableAbi)]
pub struct AbiSums {
    digest: RString,
    size: u64,
    diff_id: ROption<RString>,
    extras: AbiExtras,
}

impl Cross for BlobSums {
    type Abi = AbiSums;
    fn into_abi(self) -> AbiSums {
        AbiSums {
            digest: self.digest.into_abi(),
            size: self.size,
            diff_id: self.diff_id.into_abi(),
            extras: RVec::new(),
        }
    }
    fn from_abi(abi: AbiSums) -> Result<Self> {
        Ok(Self {
            digest: Digest::from_abi(abi.digest)?,
            size: abi.size,
            diff_id: Option::from_abi(abi.diff_id)?,
        })
    }
}

#[repr(C)]
#[derive(StableAbi)]
pub struct AbiTopLevel {
    digest: RString,
    media_type: RString,
    size: u64,
    extras: AbiExtras,
}

impl Cross for TopLevel {
    type Abi = AbiTopLevel;
    fn into_abi(self) -> AbiTopLevel {
        AbiTopLevel {
            digest: self.digest.into_abi(),
            media_type: self.media_type.into(),
            size: self.size,
            extras: RVec::new(),
        }
    }
    fn from_abi(abi: AbiTopLevel) -> Result<Self> {
        Ok(Self {
            digest: Digest::from_abi(abi.digest)?,
            media_type: abi.media_type.into_string(),
            size: abi.size,
        })
    }
}

#[repr(C)]
#[derive(StableAbi)]
pub struct AbiCommitted {
    details: ROption<RString>,
    extras: AbiExtras,
}

impl Cross for Committed {
    type Abi = AbiCommitted;
    fn into_abi(self) -> AbiCommitted {
        AbiCommitted { details: self.details.into_abi(), extras: RVec::new() }
    }
    fn from_abi(abi: AbiCommitted) -> Result<Self> {
        Ok(Self { details: Option::from_abi(abi.details)? })
    }
}

/// A stretch of an open file. The descriptor stays the reader's: it is valid while the reader is.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct AbiExtent {
    pub fd: i32,
    pub offset: u64,
    pub length: u64,
}

/// A place in an open file. The descriptor stays the writer's: it is valid while the writer is.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct AbiFileTarget {
    pub fd: i32,
    pub offset: u64,
}

/// The plain part of a session; the host's services travel beside it.
pub struct SessionData {
    pub options: Options,
    pub platform: PlatformChoice,
    pub temp_dir: PathBuf,
}

#[repr(C)]
#[derive(StableAbi)]
pub struct AbiSessionData {
    options: RVec<Tuple2<RString, RVec<RString>>>,
    os: ROption<RString>,
    architecture: ROption<RString>,
    variant: ROption<RString>,
    /// Bytes of the path: paths need not be UTF-8.
    temp_dir: RVec<u8>,
    extras: AbiExtras,
}

impl Cross for SessionData {
    type Abi = AbiSessionData;
    fn into_abi(self) -> AbiSessionData {
        use std::os::unix::ffi::OsStringExt;
        AbiSessionData {
            options: self
                .options
                .iter()
                .map(|(name, values)| {
                    Tuple2(
                        RString::from(name),
                        values.iter().map(|v| RString::from(v.as_str())).collect(),
                    )
                })
                .collect(),
            os: self.platform.os.into_abi(),
            architecture: self.platform.architecture.into_abi(),
            variant: self.platform.variant.into_abi(),
            temp_dir: self.temp_dir.into_os_string().into_vec().into(),
            extras: RVec::new(),
        }
    }
    fn from_abi(abi: AbiSessionData) -> Result<Self> {
        use std::os::unix::ffi::OsStringExt;
        let mut options = Options::default();
        for Tuple2(name, values) in abi.options {
            for value in values {
                options.add(name.as_str(), value);
            }
        }
        Ok(Self {
            options,
            platform: PlatformChoice {
                os: Option::from_abi(abi.os)?,
                architecture: Option::from_abi(abi.architecture)?,
                variant: Option::from_abi(abi.variant)?,
            },
            temp_dir: std::ffi::OsString::from_vec(abi.temp_dir.into_vec()).into(),
        })
    }
}

pub fn level_code(level: LogLevel) -> u32 {
    match level {
        LogLevel::Debug => 1,
        LogLevel::Info => 2,
        LogLevel::Warning => 3,
    }
}

pub fn level_from_code(code: u32) -> LogLevel {
    match code {
        1 => LogLevel::Debug,
        2 => LogLevel::Info,
        // A level from a newer plugin is more important than the ones we know.
        _ => LogLevel::Warning,
    }
}
