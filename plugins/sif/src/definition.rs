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
    let text = String::from_utf8_lossy(definition.unwrap_or_default());
    let (mut environment, mut runscript) = (Vec::new(), Vec::new());
    let mut section = "";
    for line in text.lines().map(str::trim) {
        if line.starts_with('%') {
            section = line;
        } else if section == "%environment" && !line.is_empty() && !line.starts_with('#') {
            environment.push(line);
        } else if section == "%runscript" {
            runscript.push(line);
        }
    }
    if environment.is_empty() && runscript.is_empty() {
        return Command { program: "bash".to_owned(), script: None };
    }
    let script = format!("#!/bin/bash\n{}\n{}\n", environment.join("\n"), runscript.join("\n"));
    Command { program: format!("/{SCRIPT}"), script: Some(script.into_bytes()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_script_sets_the_environment_and_runs() {
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
