//! the `oci:` transport: OCI image layouts
