//! The plugin's side: an author's traits as method tables. Every call catches panics.

use std::any::Any;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use abi_stable::sabi_trait::TD_Opaque;
use abi_stable::std_types::{ROption, RResult, RSlice, RSliceMut, RStr, RString, RVec};

use super::objects::{
    AbiBlob, AbiDestination, AbiDestination_TO, AbiImageRef, AbiImageRef_TO, AbiReader,
    AbiReader_TO, AbiSession, AbiSource, AbiSource_TO, AbiTransport, AbiTransport_TO, AbiWriter,
    AbiWriter_TO, DestinationObject, HostObject, ImageRefObject, NamedTransport, SourceObject,
    TransportsResult, WriterObject,
};
use super::types::{
    AbiAccepts, AbiCommitted, AbiDescriptor, AbiError, AbiExtent, AbiFileTarget, AbiIncoming,
    AbiManifest, AbiNames, AbiResult, AbiSignature, AbiSums, AbiTags, AbiTopLevel, AbiWanted,
    Cross, SessionData, from_abi_result, level_code,
};
use crate::model::{Digest, Error, ErrorKind, Result};
use crate::session::{Host, HostServices, LogLevel, Session};
use crate::transport::{BlobReader, BlobWriter, Destination, ImageRef, Plugin, Source, Transport};

/// Makes the tables of all of a plugin's transports.
pub fn transports(plugin_name: &'static str, plugin: fn() -> Plugin) -> TransportsResult {
    match caught(plugin_name, "starting", || Ok(plugin())) {
        RResult::ROk(plugin) => RResult::ROk(
            plugin
                .transports
                .into_iter()
                .map(|(name, transport)| NamedTransport {
                    name: name.into(),
                    transport: AbiTransport_TO::from_value(
                        Exported { plugin: plugin_name, value: Some(transport) },
                        TD_Opaque,
                    ),
                })
                .collect(),
        ),
        RResult::RErr(error) => RResult::RErr(error),
    }
}

/// An author's object, with the name of the plugin it belongs to; emptied by a call that uses it
/// up.
struct Exported<T: ?Sized> {
    plugin: &'static str,
    value: Option<Box<T>>,
}

impl<T: ?Sized> Drop for Exported<T> {
    fn drop(&mut self) {
        let value = self.value.take();
        // A panic in a destructor would end the process at the boundary; what it should have
        // cleaned up is lost either way.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
    }
}

impl<T: ?Sized> Exported<T> {
    fn call<R: Cross>(&self, what: &str, body: impl FnOnce(&T) -> Result<R>) -> AbiResult<R::Abi> {
        match caught(self.plugin, what, || body(self.get(what)?)) {
            RResult::ROk(value) => RResult::ROk(value.into_abi()),
            RResult::RErr(error) => RResult::RErr(error),
        }
    }

    fn get(&self, what: &str) -> Result<&T> {
        self.value.as_deref().ok_or_else(|| used_up(what))
    }

    /// Wraps what a call made, an object of another kind, for the way across.
    fn wrap<U: ?Sized>(&self, value: Box<U>) -> Exported<U> {
        Exported { plugin: self.plugin, value: Some(value) }
    }

    fn extension(
        &self,
        name: &str,
        body: impl FnOnce(&T) -> Option<Result<Vec<u8>>>,
    ) -> AbiResult<ROption<RVec<u8>>> {
        self.call(&format!("extension {name}"), |value| body(value).transpose())
    }
}

fn used_up(what: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("{what} was called after the object's last call"))
}

/// Runs an author's code and turns a panic into an error that names the plugin.
fn caught<T>(plugin: &str, what: &str, body: impl FnOnce() -> Result<T>) -> AbiResult<T> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => RResult::ROk(value),
        Ok(Err(error)) => RResult::RErr(error.into()),
        Err(payload) => RResult::RErr(AbiError::from(panicked(plugin, what, payload.as_ref()))),
    }
}

fn panicked(plugin: &str, what: &str, payload: &(dyn Any + Send)) -> Error {
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Error::new(ErrorKind::Panicked, format!("plugin `{plugin}` panicked in {what}: {message}"))
        .with_hint("report this to the plugin's author; `diolkos plugin info` names them")
}

fn session(abi: AbiSession) -> Result<Session> {
    let data = SessionData::from_abi(abi.data)?;
    Ok(Session {
        options: data.options,
        platform: data.platform,
        temp_dir: data.temp_dir,
        host: Host::new(ImportedHost(abi.host)),
    })
}

fn instance(abi: ROption<RString>) -> Result<Option<Digest>> {
    Option::from_abi(abi)
}

/// The host, as the plugin's code sees it.
struct ImportedHost(HostObject);

impl HostServices for ImportedHost {
    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
    fn log(&self, level: LogLevel, message: &str) {
        self.0.log(level_code(level), message.into());
    }
    fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
        let answer: Result<Option<Vec<u8>>> =
            from_abi_result(self.0.extension(name.into(), input.into()));
        answer.transpose()
    }
}

impl AbiTransport for Exported<dyn Transport> {
    fn parse(&self, details: RStr<'_>) -> AbiResult<ImageRefObject> {
        caught(self.plugin, "parse", || {
            let reference = self.get("parse")?.parse(details.as_str())?;
            Ok(AbiImageRef_TO::from_value(self.wrap(reference), TD_Opaque))
        })
    }
    fn check_policy_scope(&self, scope: RStr<'_>) -> AbiResult<()> {
        self.call("check_policy_scope", |transport| transport.check_policy_scope(scope.as_str()))
    }
    fn extension(&self, name: RStr<'_>, input: RSlice<'_, u8>) -> AbiResult<ROption<RVec<u8>>> {
        self.extension(name.as_str(), |it| it.extension(name.as_str(), input.as_slice()))
    }
}

impl AbiImageRef for Exported<dyn ImageRef> {
    fn names(&self) -> AbiResult<AbiNames> {
        self.call("names", |reference| Ok(reference.names()))
    }
    fn open(&self, abi: AbiSession) -> AbiResult<SourceObject> {
        caught(self.plugin, "open", || {
            let source = self.get("open")?.open(&session(abi)?)?;
            Ok(AbiSource_TO::from_value(self.wrap(source), TD_Opaque))
        })
    }
    fn create(&self, abi: AbiSession) -> AbiResult<DestinationObject> {
        caught(self.plugin, "create", || {
            let destination = self.get("create")?.create(&session(abi)?)?;
            Ok(AbiDestination_TO::from_value(self.wrap(destination), TD_Opaque))
        })
    }
    fn delete(&self, abi: AbiSession) -> AbiResult<()> {
        self.call("delete", |reference| reference.delete(&session(abi)?))
    }
    fn tags(&self, abi: AbiSession) -> AbiResult<AbiTags> {
        self.call("tags", |reference| reference.tags(&session(abi)?))
    }
}

impl AbiSource for Exported<dyn Source> {
    fn manifest(&self, of: ROption<RString>) -> AbiResult<AbiManifest> {
        self.call("manifest", |source| source.manifest(instance(of)?.as_ref()))
    }
    fn blob(&self, blob: AbiDescriptor, from: u64) -> AbiResult<AbiBlob> {
        caught(self.plugin, "blob", || {
            let blob = self.get("blob")?.blob(&Cross::from_abi(blob)?, from)?;
            Ok(AbiBlob {
                size: blob.size.into(),
                reader: AbiReader_TO::from_value(self.wrap(blob.reader), TD_Opaque),
                extras: RVec::new(),
            })
        })
    }
    fn signatures(&self, of: ROption<RString>) -> AbiResult<RVec<AbiSignature>> {
        self.call("signatures", |source| source.signatures(instance(of)?.as_ref()))
    }
    fn layers(&self, of: ROption<RString>) -> AbiResult<ROption<RVec<AbiDescriptor>>> {
        self.call("layers", |source| source.layers(instance(of)?.as_ref()))
    }
    fn extension(&self, name: RStr<'_>, input: RSlice<'_, u8>) -> AbiResult<ROption<RVec<u8>>> {
        self.extension(name.as_str(), |it| it.extension(name.as_str(), input.as_slice()))
    }
}

impl AbiReader for Exported<dyn BlobReader> {
    fn read(&mut self, mut buffer: RSliceMut<'_, u8>) -> AbiResult<usize> {
        let plugin = self.plugin;
        caught(plugin, "read", || {
            let reader = self.value.as_mut().ok_or_else(|| used_up("read"))?;
            reader.read(buffer.as_mut_slice())
        })
    }
    fn extent(&self) -> ROption<AbiExtent> {
        let extent = self.call("extent", |reader| {
            Ok(reader.extent().map(|extent| {
                AbiExtentValue(AbiExtent {
                    fd: extent.file.as_raw_fd(),
                    offset: extent.offset,
                    length: extent.length,
                })
            }))
        });
        // A panic here means no fast path; the read that follows will show it.
        extent.unwrap_or(ROption::RNone)
    }
}

impl AbiDestination for Exported<dyn Destination> {
    fn accepts(&self) -> AbiResult<AbiAccepts> {
        self.call("accepts", |destination| Ok(destination.accepts()))
    }
    fn current(&self) -> AbiResult<ROption<RString>> {
        self.call("current", Destination::current)
    }
    fn reuse(&self, wanted: AbiWanted) -> AbiResult<ROption<AbiDescriptor>> {
        self.call("reuse", |destination| destination.reuse(&Cross::from_abi(wanted)?))
    }
    fn put_blob(&self, blob: AbiIncoming) -> AbiResult<ROption<WriterObject>> {
        caught(self.plugin, "put_blob", || {
            let writer = self.get("put_blob")?.put_blob(&Cross::from_abi(blob)?)?;
            Ok(writer.map(|writer| AbiWriter_TO::from_value(self.wrap(writer), TD_Opaque)).into())
        })
    }
    fn put_manifest(&self, manifest: AbiManifest, of: ROption<RString>) -> AbiResult<()> {
        self.call("put_manifest", |destination| {
            destination.put_manifest(&Cross::from_abi(manifest)?, instance(of)?.as_ref())
        })
    }
    fn put_signatures(
        &self,
        signatures: RVec<AbiSignature>,
        of: ROption<RString>,
    ) -> AbiResult<()> {
        self.call("put_signatures", |destination| {
            let signatures: Vec<_> = Cross::from_abi(signatures)?;
            destination.put_signatures(&signatures, instance(of)?.as_ref())
        })
    }
    fn commit(&mut self, top: AbiTopLevel) -> AbiResult<AbiCommitted> {
        let value = self.value.take();
        caught(self.plugin, "commit", || {
            let committed =
                value.ok_or_else(|| used_up("commit"))?.commit(&Cross::from_abi(top)?)?;
            Ok(committed.into_abi())
        })
    }
    fn extension(&self, name: RStr<'_>, input: RSlice<'_, u8>) -> AbiResult<ROption<RVec<u8>>> {
        self.extension(name.as_str(), |it| it.extension(name.as_str(), input.as_slice()))
    }
}

impl AbiWriter for Exported<dyn BlobWriter> {
    fn write(&mut self, chunk: RSlice<'_, u8>) -> AbiResult<()> {
        let plugin = self.plugin;
        caught(plugin, "write", || {
            let writer = self.value.as_mut().ok_or_else(|| used_up("write"))?;
            writer.write(chunk.as_slice())
        })
    }
    fn file(&self) -> ROption<AbiFileTarget> {
        let target = self.call("file", |writer| {
            Ok(writer.file().map(|target| {
                AbiTargetValue(AbiFileTarget { fd: target.file.as_raw_fd(), offset: target.offset })
            }))
        });
        target.unwrap_or(ROption::RNone)
    }
    fn finish(&mut self, sums: AbiSums) -> AbiResult<()> {
        let value = self.value.take();
        caught(self.plugin, "finish", || {
            value.ok_or_else(|| used_up("finish"))?.finish(&Cross::from_abi(sums)?)
        })
    }
}

/// Extents cross as they are.
struct AbiExtentValue(AbiExtent);

impl Cross for AbiExtentValue {
    type Abi = AbiExtent;
    fn into_abi(self) -> AbiExtent {
        self.0
    }
    fn from_abi(abi: AbiExtent) -> Result<Self> {
        Ok(Self(abi))
    }
}

/// File targets cross as they are.
struct AbiTargetValue(AbiFileTarget);

impl Cross for AbiTargetValue {
    type Abi = AbiFileTarget;
    fn into_abi(self) -> AbiFileTarget {
        self.0
    }
    fn from_abi(abi: AbiFileTarget) -> Result<Self> {
        Ok(Self(abi))
    }
}
