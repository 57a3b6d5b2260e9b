//! What an image's definition says of how it is run.
//!
//! # Source
//! Singularity's user guide, "Definition Files"; the script is the one that containers/image makes.

/// Where the script is put that an image runs.
pub(crate) const SCRIPT: &str = "podman/runscript";

/// What an image runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// The program.
    pub program: String,
    /// The script that it is, unless it is in the image.
    pub script: Option<Vec<u8>>,
}

/// Reads a definition; without one, or with nothing in it, a shell runs.
pub(crate) fn command(definition: Option<&[u8]>) -> Command {
    let text = definition.unwrap_or_default();
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let (mut environment, mut runscript) = (Vec::new(), Vec::new());
    let mut section: &[u8] = b"";
    for line in text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        if line.starts_with(b"%") {
            section = line;
        } else if section == b"%environment" && !line.is_empty() && !line.starts_with(b"#") {
            environment.push(line);
        } else if section == b"%runscript" {
            runscript.push(line);
        }
    }
    if environment.is_empty() && runscript.is_empty() {
        return Command { program: "bash".to_owned(), script: None };
    }
    let newline: &[u8] = b"\n";
    let parts = [b"#!/bin/bash", &environment.join(newline)[..], &runscript.join(newline), b""];
    Command { program: format!("/{SCRIPT}"), script: Some(parts.join(newline)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_script_sets_the_environment_and_runs() {
        assert_eq!(
            command(Some(b"%runscript\n\xe9\xff")).script.unwrap(),
            b"#!/bin/bash\n\n\xe9\xff\n"
        );
        let text = b"Bootstrap: docker\n%environment\n  # why\n  export A=1\n\n%post\nmake\n\
                     %runscript\n  exec app \"$@\"\n\n%labels\nx y\n";
        let command = command(Some(text));
        assert_eq!(command.program, "/podman/runscript");
        let script = String::from_utf8(command.script.unwrap()).unwrap();
        assert_eq!(script, "#!/bin/bash\nexport A=1\nexec app \"$@\"\n\n");
    }

    #[test]
    fn without_a_script_a_shell_runs() {
        let bash = Command { program: "bash".into(), script: None };
        assert_eq!(command(None), bash);
        assert_eq!(command(Some(b"Bootstrap: docker\n%post\nmake\n%environment\n# none\n")), bash);
    }

    proptest! {
        #[test]
        fn any_definition_is_read_without_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = command(Some(&text));
        }
    }
}
