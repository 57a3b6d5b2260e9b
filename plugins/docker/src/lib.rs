//! the `docker:` transport: container registries
