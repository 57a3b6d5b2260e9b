//! The image that is made of a file.

use std::path::Path;

use diolkos_formats::made::{About, Layer, MadeImage, Step};
use diolkos_sdk::model::media_type;
use diolkos_sdk::{Error, ErrorKind, Result, Session};
use jiff::Timestamp;

use crate::definition;
use crate::file::Sif;
use crate::rootfs;

/// Makes the image.
///
/// # Errors
/// Those of [`Sif::open`] and of [`rootfs::layer`].
pub(crate) fn open(path: &Path, session: &Session) -> Result<MadeImage> {
    let sif = Sif::open(path)?;
    let command = definition::command(sif.definition.as_deref());
    let layer = rootfs::layer(&sif.file, sif.rootfs, command.script.as_deref(), session)
        .map_err(|error| error.context("converting rootfs from SquashFS to Tarball"))?;
    let digest = layer.digest;
    let created = Timestamp::from_second(sif.modified).map_err(|error| {
        let message = format!("{}: when it was changed", path.display());
        Error::new(ErrorKind::Corrupt, message).with_source(error)
    })?;
    let created = created.to_string();
    let about = About {
        created: created.clone(),
        architecture: sif.architecture.to_owned(),
        variant: String::new(),
        os: "linux".to_owned(),
        command: vec![command.program],
        history: vec![
            Step {
                created: created.clone(),
                created_by: format!("/bin/sh -c #(nop) ADD file:{} in /", digest.hex()),
                comment: format!("imported from SIF, uuid: {}", sif.id),
                empty_layer: false,
            },
            Step {
                created,
                created_by: r#"/bin/sh -c #(nop) CMD ["bash"]"#.to_owned(),
                comment: String::new(),
                empty_layer: true,
            },
        ],
    };
    let layer = Layer {
        diff_id: digest.clone(),
        digest,
        size: layer.size,
        media_type: media_type::OCI_LAYER,
        file: layer.file,
    };
    MadeImage::new("sif", true, &about, vec![layer])
}
