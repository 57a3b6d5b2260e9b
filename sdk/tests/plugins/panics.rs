//! A plugin that panics in every call; how far a caller gets first is the reference's text.

#![allow(missing_docs, clippy::wildcard_imports, reason = "a library for one test")]

use diolkos_sdk::*;

struct Panics;

impl Transport for Panics {
    fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
        assert!(details != "parse", "parse was told to");
        Ok(Box::new(PanicsRef(details.to_owned())))
    }
    fn check_policy_scope(&self, _: &str) -> Result<()> {
        panic!("check_policy_scope was told to")
    }
    fn extension(&self, _: &str, _: &[u8]) -> Option<Result<Vec<u8>>> {
        panic!("extension was told to")
    }
}

struct PanicsRef(String);

impl ImageRef for PanicsRef {
    fn names(&self) -> Names {
        panic!("names was told to")
    }
    fn open(&self, _: &Session) -> Result<Box<dyn Source>> {
        assert!(self.0 != "open", "open was told to");
        Ok(Box::new(PanicsSource))
    }
    fn create(&self, _: &Session) -> Result<Box<dyn Destination>> {
        assert!(self.0 != "open", "create was told to");
        Ok(Box::new(PanicsDestination))
    }
    fn delete(&self, _: &Session) -> Result<()> {
        panic!("delete was told to")
    }
    fn tags(&self, _: &Session) -> Result<Tags> {
        panic!("tags was told to")
    }
}

impl Drop for PanicsRef {
    fn drop(&mut self) {
        // A panic during another one ends any Rust process; no boundary can help there.
        assert!(std::thread::panicking(), "drop was told to");
    }
}

struct PanicsSource;

impl Source for PanicsSource {
    fn manifest(&self, _: Option<&Digest>) -> Result<RawManifest> {
        panic!("manifest was told to")
    }
    fn blob(&self, _: &Descriptor, from: u64) -> Result<Blob> {
        assert!(from == 0, "blob was told to");
        Ok(Blob { size: None, reader: Box::new(PanicsStream) })
    }
    fn signatures(&self, _: Option<&Digest>) -> Result<Vec<Signature>> {
        panic!("signatures was told to")
    }
    fn layers(&self, _: Option<&Digest>) -> Result<Option<Vec<Descriptor>>> {
        panic!("layers was told to")
    }
}

struct PanicsDestination;

impl Destination for PanicsDestination {
    fn accepts(&self) -> Accepts {
        panic!("accepts was told to")
    }
    fn current(&self) -> Result<Option<Digest>> {
        panic!("current was told to")
    }
    fn reuse(&self, _: &BlobWanted) -> Result<Option<Descriptor>> {
        panic!("reuse was told to")
    }
    fn put_blob(&self, blob: &BlobIncoming) -> Result<Option<Box<dyn BlobWriter>>> {
        assert!(blob.size.is_some(), "put_blob was told to");
        Ok(Some(Box::new(PanicsStream)))
    }
    fn put_manifest(&self, _: &RawManifest, _: Option<&Digest>) -> Result<()> {
        panic!("put_manifest was told to")
    }
    fn put_signatures(&self, _: &[Signature], _: Option<&Digest>) -> Result<()> {
        panic!("put_signatures was told to")
    }
    fn commit(self: Box<Self>, _: &TopLevel) -> Result<Committed> {
        panic!("commit was told to")
    }
}

struct PanicsStream;

impl BlobReader for PanicsStream {
    fn read(&mut self, _: &mut [u8]) -> Result<usize> {
        panic!("read was told to")
    }
    fn extent(&self) -> Option<Extent<'_>> {
        panic!("extent was told to")
    }
}

impl BlobWriter for PanicsStream {
    fn write(&mut self, _: &[u8]) -> Result<()> {
        panic!("write was told to")
    }
    fn file(&self) -> Option<FileTarget<'_>> {
        panic!("file was told to")
    }
    fn finish(self: Box<Self>, _: &BlobSums) -> Result<()> {
        panic!("finish was told to")
    }
}

impl Drop for PanicsStream {
    fn drop(&mut self) {
        // A panic during another one ends any Rust process; no boundary can help there.
        assert!(std::thread::panicking(), "drop was told to");
    }
}

fn plugin() -> Plugin {
    // The test looks at the errors; this copy of std would print each panic as well.
    std::panic::set_hook(Box::new(|_| {}));
    Plugin::new().with("panics", Panics)
}

diolkos_sdk::export_plugin!(plugin);
