//! Opens a plugin library: header first, layouts second, and only then anything else.

#![allow(unsafe_code)]

use std::path::{Path, PathBuf};

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::check_layout_compatibility;
use abi_stable::library::{AbiHeaderRef, LibHeader};
use abi_stable::type_layout::TypeLayout;

use super::entry::{
    ABI_MAJOR, ABI_MINOR, BINDING_ABI_STABLE, EntryHeader, FIRST_SIZE, INTERFACE, MAGIC, SIZE,
    SYMBOL,
};
use super::objects::PluginRootRef;
use super::{elf, import};
use crate::model::{Error, ErrorKind, Result, ResultExt};
use crate::transport::Transport;

/// A plugin that was opened and checked. It stays loaded until the process ends.
pub struct LoadedPlugin {
    /// The library's file.
    pub path: PathBuf,
    /// The ABI the plugin was built for, major and minor.
    pub abi: (u32, u32),
    /// Whether the layouts of its types were compared, because it was built from another interface.
    pub compared: bool,
    /// Its transports by name.
    pub transports: Vec<(String, Box<dyn Transport>)>,
}

/// Opens a plugin library and makes its transports.
///
/// Nothing of the library's own code runs before its header, its ABI version and the layouts of
/// everything that crosses have been checked, except what the dynamic linker runs. A library that
/// was built from the same interface as this program has the same layouts: they are not compared,
/// which takes longer than all else.
///
/// # Errors
/// - [`ErrorKind::NotFound`]: there is no such file.
/// - [`ErrorKind::Unsupported`]: the file is no library, no plugin, or one for another ABI; the
///   message names the file, its ABI and the host's.
pub fn load(path: &Path) -> Result<LoadedPlugin> {
    let header = open(path)?;
    let compared = header.interface != INTERFACE;
    if compared {
        check_layouts(path, header.root)?;
    }
    // SAFETY: the root module and everything reachable from it has our layouts: they were just
    // compared, or the header says that it was compiled from the same text with the same
    // `abi_stable`, which is believed as the symbol is. And the library is never closed, so the table
    // lives as long as the process.
    let root = unsafe { header.root.unchecked_layout::<PluginRootRef>() }
        .map_err(|error| refused(path, format!("its root module does not start: {error}")))?;
    let transports = import::transports(root.transports()())
        .map_err(|error| error.context(format!("cannot start plugin `{}`", path.display())))?;
    Ok(LoadedPlugin { path: path.to_owned(), abi: header.abi, compared, transports })
}

/// Opens a plugin library and returns the ABI it was built for, without making its transports. The
/// layouts are compared in any case.
///
/// # Errors
/// As [`load`].
pub fn inspect(path: &Path) -> Result<(u32, u32)> {
    let header = open(path)?;
    check_layouts(path, header.root)?;
    Ok(header.abi)
}

struct Opened {
    abi: (u32, u32),
    interface: [u8; 8],
    root: &'static LibHeader,
}

fn open(path: &Path) -> Result<Opened> {
    let cannot_open = || format!("cannot open plugin library `{}`", path.display());
    let is_file = std::fs::metadata(path).context(cannot_open)?.is_file();
    let missing = if is_file { elf::missing_bytes(path).context(cannot_open)? } else { 0 };
    if missing > 0 {
        return Err(refused(path, "it is not a shared library that this system can load")
            .with_source(Error::new(
                ErrorKind::Unsupported,
                format!("the file is cut off: {missing} bytes or more are missing"),
            ))
            .with_hint("install the plugin again"));
    }
    // A name without a slash would make the linker look in the system's directories instead.
    let absolute = std::path::absolute(path).context(cannot_open)?;
    // SAFETY: loading a library runs its initialisers. The caller has decided to trust the file
    // (the host refuses files that others can write to), as it must for the code it then calls.
    let library = unsafe { libloading::Library::new(absolute) }.map_err(|error| {
        refused(path, "it is not a shared library that this system can load").with_source(error)
    })?;
    // The library is never unloaded: objects, error texts and statics of the plugin may be
    // referred to until the process ends.
    let library = Box::leak(Box::new(library));
    // SAFETY: the symbol is declared by `export_plugin!` with exactly this type; a library that
    // exports the name for anything else does so in order to be mistaken for a plugin.
    let entry = unsafe { library.get::<extern "C" fn() -> *const EntryHeader>(SYMBOL.as_bytes()) }
        .map_err(|_| {
            refused(path, format!("it is no Diolkos plugin: it does not export `{SYMBOL}`"))
        })?;
    let header = entry();
    if header.is_null() {
        return Err(refused(path, "its header is missing"));
    }
    // SAFETY: a plugin's header has these two in every ABI version; they are read one by one before
    // anything is believed.
    let (magic, size) = unsafe { ((*header).magic, (*header).size) };
    if magic != MAGIC {
        return Err(refused(path, "its header does not begin as a plugin's does"));
    }
    if size < FIRST_SIZE {
        return Err(refused(path, format!("its header has only {size} bytes")));
    }
    // SAFETY: magic and size say that all that ABI 1.0 has is there.
    let (abi, binding, root) =
        unsafe { (((*header).abi_major, (*header).abi_minor), (*header).binding, (*header).root) };
    // SAFETY: it is read where the size says that it is there; that is believed as the symbol is.
    let interface = if size >= SIZE { unsafe { (*header).interface } } else { [0; 8] };
    if abi.0 != ABI_MAJOR {
        let newer = abi.0 > ABI_MAJOR;
        return Err(refused(
            path,
            format!(
                "it was built for plugin ABI {}.{}, and this program has {ABI_MAJOR}.{ABI_MINOR}",
                abi.0, abi.1
            ),
        )
        .with_hint(if newer {
            "install a newer diolkos, or an older version of the plugin"
        } else {
            "install a newer version of the plugin"
        }));
    }
    if binding != BINDING_ABI_STABLE {
        return Err(refused(
            path,
            format!("it is bound in a way this program does not know ({binding})"),
        )
        .with_hint("install a newer diolkos"));
    }
    if root.is_null() {
        return Err(refused(path, "its root module is missing"));
    }
    // SAFETY: `AbiHeaderRef` is a transparent reference to the `AbiHeader` that every `LibHeader`
    // begins with; `upgrade` compares its magic text and version before the rest is believed.
    let reference = unsafe { std::mem::transmute::<*const LibHeader, AbiHeaderRef>(root) };
    let root = reference.upgrade().map_err(|error| {
        refused(path, "it was built with an incompatible version of abi_stable")
            .with_source(error.to_string())
    })?;
    Ok(Opened { abi, interface, root })
}

/// Compares every layout that is reachable from the root module with ours.
fn check_layouts(path: &Path, root: &'static LibHeader) -> Result<()> {
    let ours = <PluginRootRef as StableAbi>::LAYOUT;
    let theirs = root
        .layout()
        .ok_or_else(|| refused(path, "it does not describe the layout of its types"))?;
    compatible(ours, theirs).map_err(|report| {
        // The checker's report is pages long; its first line that names a difference is enough.
        refused(path, "the layout of its types differs from this program's")
            .with_hint("rebuild the plugin with the released diolkos-sdk 1.x")
            .with_source(Error::new(ErrorKind::Unsupported, summary(&report)))
    })
}

/// Tells whether a host with our tables can use a plugin with theirs.
///
/// `abi_stable`'s check runs one way only: it refuses an older plugin as soon as a table has grown,
/// although the older plugin lacks only what it is never asked for. So a refusal counts only if
/// the other direction refuses too. What belongs to a table from the start, up to its
/// `last_prefix_field`, must be there in either direction.
pub(super) fn compatible(
    ours: &'static TypeLayout,
    theirs: &'static TypeLayout,
) -> Result<(), String> {
    let Err(error) = check_layout_compatibility(ours, theirs) else { return Ok(()) };
    check_layout_compatibility(theirs, ours).map_err(|_| error.to_string())
}

fn summary(report: &str) -> String {
    let mut lines = report.lines().map(str::trim).filter(|line| line.starts_with("Error:"));
    lines.next().unwrap_or("the layout check gave no reason").to_owned()
}

fn refused(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unsupported, format!("cannot use plugin `{}`: {why}", path.display()))
}
