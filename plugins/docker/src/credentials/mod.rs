//! Who we are, as files and programs of this machine know it.
