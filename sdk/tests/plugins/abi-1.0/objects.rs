//! The method tables that cross: frozen, growing only by extensions.

// The macro of abi_stable expands to `unsafe` blocks and items without docs.
#![allow(unsafe_code, missing_docs, clippy::all, clippy::pedantic, non_local_definitions)]

use abi_stable::library::RootModule;
use abi_stable::package_version_strings;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RBox, ROption, RSlice, RSliceMut, RStr, RString, RVec};
use abi_stable::{StableAbi, sabi_trait};

use super::types::{
    AbiAccepts, AbiCommitted, AbiDescriptor, AbiExtent, AbiExtra, AbiFileTarget, AbiIncoming,
    AbiManifest, AbiNames, AbiResult, AbiSessionData, AbiSignature, AbiSums, AbiTags, AbiTopLevel,
    AbiWanted,
};

pub type TransportObject = AbiTransport_TO<'static, RBox<()>>;
pub type ImageRefObject = AbiImageRef_TO<'static, RBox<()>>;
pub type SourceObject = AbiSource_TO<'static, RBox<()>>;
pub type DestinationObject = AbiDestination_TO<'static, RBox<()>>;
pub type ReaderObject = AbiReader_TO<'static, RBox<()>>;
pub type WriterObject = AbiWriter_TO<'static, RBox<()>>;
pub type HostObject = AbiHost_TO<'static, RBox<()>>;

/// What the root table's one function returns.
pub type TransportsResult = AbiResult<RVec<NamedTransport>>;

/// What stands behind the entry header: a plugin's transports by name.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRootRef)))]
pub struct PluginRoot {
    /// Makes the plugin's transports.
    #[sabi(last_prefix_field)]
    pub transports: extern "C" fn() -> TransportsResult,
}

impl RootModule for PluginRootRef {
    abi_stable::declare_root_module_statics! {PluginRootRef}
    const BASE_NAME: &'static str = "diolkos_plugin";
    const NAME: &'static str = "diolkos_plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}

#[repr(C)]
#[derive(StableAbi)]
pub struct NamedTransport {
    pub name: RString,
    pub transport: TransportObject,
}

/// The host as a plugin sees it.
#[sabi_trait]
pub trait AbiHost: Send + Sync {
    fn is_cancelled(&self) -> bool;
    fn log(&self, level: u32, message: RStr<'_>);
    #[sabi(last_prefix_field)]
    fn extension(&self, name: RStr<'_>, input: RSlice<'_, u8>) -> AbiResult<ROption<RVec<u8>>>;
}

#[repr(C)]
#[derive(StableAbi)]
pub struct AbiSession {
    pub data: AbiSessionData,
    pub host: HostObject,
}

#[sabi_trait]
pub trait AbiTransport: Send + Sync {
    fn parse(&self, details: RStr<'_>) -> AbiResult<ImageRefObject>;
    fn check_policy_scope(&self, scope: RStr<'_>) -> AbiResult<()>;
    #[sabi(last_prefix_field)]
    fn extension(&self, name: RStr<'_>, input: RSlice<'_, u8>) -> AbiResult<ROption<RVec<u8>>>;
}

#[sabi_trait]
pub trait AbiImageRef: Send + Sync {
    fn names(&self) -> AbiResult<AbiNames>;
    fn open(&self, session: AbiSession) -> AbiResult<SourceObject>;
    fn create(&self, session: AbiSession) -> AbiResult<DestinationObject>;
    fn delete(&self, session: AbiSession) -> AbiResult<()>;
    #[sabi(last_prefix_field)]
    fn tags(&self, session: AbiSession) -> AbiResult<AbiTags>;
}

#[repr(C)]
#[derive(StableAbi)]
pub struct AbiBlob {
    pub size: ROption<u64>,
    pub reader: ReaderObject,
    pub extras: RVec<AbiExtra>,
}

#[sabi_trait]
pub trait AbiSource: Send + Sync {
    fn manifest(&self, instance: ROption<RString>) -> AbiResult<AbiManifest>;
    fn blob(&self, blob: AbiDescriptor, from: u64) -> AbiResult<AbiBlob>;
    fn signatures(&self, instance: ROption<RString>) -> AbiResult<RVec<AbiSignature>>;
    fn layers(&self, instance: ROption<RString>) -> AbiResult<ROption<RVec<AbiDescriptor>>>;
    #[sabi(last_prefix_field)]
    fn extension(&self, name: RStr<'_>, input: RSlice<'_, u8>) -> AbiResult<ROption<RVec<u8>>>;
}

#[sabi_trait]
pub trait AbiReader: Send {
    fn read(&mut self, buffer: RSliceMut<'_, u8>) -> AbiResult<usize>;
    #[sabi(last_prefix_field)]
    fn extent(&self) -> ROption<AbiExtent>;
}

#[sabi_trait]
pub trait AbiDestination: Send + Sync {
    fn accepts(&self) -> AbiResult<AbiAccepts>;
    fn current(&self) -> AbiResult<ROption<RString>>;
    fn reuse(&self, wanted: AbiWanted) -> AbiResult<ROption<AbiDescriptor>>;
    fn put_blob(&self, blob: AbiIncoming) -> AbiResult<ROption<WriterObject>>;
    fn put_manifest(&self, manifest: AbiManifest, instance: ROption<RString>) -> AbiResult<()>;
    fn put_signatures(
        &self,
        signatures: RVec<AbiSignature>,
        instance: ROption<RString>,
    ) -> AbiResult<()>;
    /// Called once and last; every later call fails.
    fn commit(&mut self, top: AbiTopLevel) -> AbiResult<AbiCommitted>;
    #[sabi(last_prefix_field)]
    fn extension(&self, name: RStr<'_>, input: RSlice<'_, u8>) -> AbiResult<ROption<RVec<u8>>>;
}

#[sabi_trait]
pub trait AbiWriter: Send {
    fn write(&mut self, chunk: RSlice<'_, u8>) -> AbiResult<()>;
    fn file(&self) -> ROption<AbiFileTarget>;
    /// Called once and last; every later call fails.
    #[sabi(last_prefix_field)]
    fn finish(&mut self, sums: AbiSums) -> AbiResult<()>;
}
