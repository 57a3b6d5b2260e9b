//! The options that `plugin.toml` declares for `dir:`.

use diolkos_sdk::{Error, ErrorKind, LayerForm, Options, Result};

/// Parsed options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirOptions {
    /// The form in which layers are kept.
    pub(crate) layer_form: LayerForm,
}

impl DirOptions {
    /// Parses the options of a destination.
    pub(crate) fn parse(options: &Options) -> Result<Self> {
        let compress = options.flag("compress")?.unwrap_or(false);
        let decompress = options.flag("decompress")?.unwrap_or(false);
        let layer_form = match (compress, decompress) {
            (true, true) => {
                let message = "Cannot compress and decompress at the same time";
                return Err(Error::new(ErrorKind::InvalidInput, message));
            }
            (true, false) => LayerForm::Compress,
            (false, true) => LayerForm::Decompress,
            (false, false) => LayerForm::Preserve,
        };
        Ok(Self { layer_form })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(options: &[(&str, &str)]) -> Result<LayerForm> {
        DirOptions::parse(&options.iter().copied().collect()).map(|options| options.layer_form)
    }

    #[test]
    fn layers_are_kept_as_they_are_unless_one_form_is_asked_for() {
        assert_eq!(form(&[]).unwrap(), LayerForm::Preserve);
        assert_eq!(form(&[("compress", "true")]).unwrap(), LayerForm::Compress);
        assert_eq!(form(&[("decompress", "true"), ("compress", "false")]).unwrap(), {
            LayerForm::Decompress
        });
        let both = form(&[("decompress", "true"), ("compress", "true")]).unwrap_err();
        assert_eq!(both.message(), "Cannot compress and decompress at the same time");
    }
}
