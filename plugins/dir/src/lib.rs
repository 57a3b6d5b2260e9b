//! the `dir:` transport: an image as plain files
