//! The options that `plugin.toml` declares for `oci:`.

use std::path::PathBuf;

use diolkos_sdk::{LayerForm, Options, Result};

/// Parsed options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OciOptions {
    /// Where blobs are kept in place of the layout's own directory.
    pub(crate) shared_blobs: Option<PathBuf>,
    /// The form in which layers are kept.
    pub(crate) layer_form: LayerForm,
}

impl OciOptions {
    /// Parses the options of either side.
    pub(crate) fn parse(options: &Options) -> Result<Self> {
        let shared = options.get("shared-blob-dir").filter(|path| !path.is_empty());
        let keep = options.flag("accept-uncompressed-layers")?.unwrap_or(false);
        Ok(Self {
            shared_blobs: shared.map(PathBuf::from),
            layer_form: if keep { LayerForm::Preserve } else { LayerForm::Compress },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_compressed_and_blobs_the_layouts_own_unless_asked_otherwise() {
        let parse = |options: &[(&str, &str)]| {
            OciOptions::parse(&options.iter().copied().collect()).unwrap()
        };
        let plain = parse(&[("shared-blob-dir", "")]);
        assert_eq!(plain, OciOptions { shared_blobs: None, layer_form: LayerForm::Compress });
        let other = parse(&[("shared-blob-dir", "/b"), ("accept-uncompressed-layers", "true")]);
        assert_eq!(other.shared_blobs, Some("/b".into()));
        assert_eq!(other.layer_form, LayerForm::Preserve);
    }
}
