//! Deleting an image from a layout: its entry, and the blobs that no other entry needs.
//!
//! The entry goes first, so that a killed deletion leaves unneeded blobs and no broken image. Only
//! blobs in the layout's own directory are deleted: who else uses a shared one is not known.

use std::collections::HashSet;
use std::fs;
use std::io;

use diolkos_formats::files::failed;
use diolkos_formats::layout::{Choice, Layout};
use diolkos_sdk::{Digest, Host, Result};

use crate::reach::{Reached, reach};

/// Deletes an image.
pub(crate) fn delete(layout: &Layout, choice: Choice<'_>, host: &Host) -> Result<()> {
    layout.index()?; // A missing layout is its own error, not one of the lock.
    let lock = layout.lock(host)?;
    let mut index = layout.index()?;
    let (position, image) = index.find(choice)?;
    let mut own = Reached::default();
    reach(layout, &image, &mut own)?;
    index.remove(position);
    let mut others = Reached::default();
    for entry in index.entries() {
        reach(layout, &entry?, &mut others)?;
    }
    // A last line feed, as skopeo writes it here and only here.
    layout.replace_index(&(index.to_text() + "\n"), &lock)?;
    remove_blobs(layout, &own.blobs, &others.blobs, host)
}

fn remove_blobs(
    layout: &Layout,
    own: &HashSet<Digest>,
    others: &HashSet<Digest>,
    host: &Host,
) -> Result<()> {
    for digest in own.difference(others) {
        let path = layout.own_blob(digest);
        host.debug(format!("deleting blob at {}", path.display()));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &path, error));
            }
            _ => {}
        }
    }
    Ok(())
}
