//! How many HTTP requests a copy costs: what a small image's time consists of.

use std::collections::BTreeMap;
use std::process::Stdio;

use diolkos_tests::{Format, Home, Image, Platform, Registry};

use super::Program;
use super::table::Table;
use crate::shell::{self, Result};

/// Counts for each program and prints one row for each kind of copy.
pub fn count(programs: &[Program]) -> Result<Table> {
    let mut rows: Vec<Vec<String>> = [
        "a fresh image",
        "the same image again",
        "into another repository of the registry",
        "the same without a cache of blobs",
    ]
    .iter()
    .map(|name| vec![(*name).to_owned()])
    .collect();
    for program in programs {
        for (row, cell) in rows.iter_mut().zip(count_for(program)?) {
            row.push(cell);
        }
    }
    let mut head = vec!["two layers, registry → registry".to_owned()];
    head.extend(programs.iter().map(|program| program.name.to_owned()));
    Ok(Table { head, rows })
}

fn count_for(program: &Program) -> Result<Vec<String>> {
    let (source, destination) = (Registry::start()?, Registry::start()?);
    Image::small(Format::Oci, Platform::AMD64, "requests").seed(&source, "team/app", "1");
    let home = Home::new();
    let copy = |home: &Home, from: String, to: String| -> Result<String> {
        source.forget_requests();
        destination.forget_requests();
        let mut command = home.command(&program.path);
        command
            .env("_CONTAINERS_ROOTLESS_UID", "1000")
            .args(["--insecure-policy", "copy", "--quiet"])
            .args(["--src-tls-verify=false", "--dest-tls-verify=false", &from, &to])
            .stdout(Stdio::null());
        shell::run(&mut command)?;
        let mut methods = BTreeMap::new();
        for request in source.requests().iter().chain(&destination.requests()) {
            *methods.entry(request.method.clone()).or_insert(0) += 1;
        }
        let total: i32 = methods.values().sum();
        let each: Vec<_> =
            methods.iter().map(|(method, count)| format!("{count} {method}")).collect();
        Ok(format!("{total} ({})", each.join(", ")))
    };
    let first = destination.reference("team/app:1");
    let cells = vec![
        copy(&home, source.reference("team/app:1"), first.clone())?,
        copy(&home, source.reference("team/app:1"), first.clone())?,
        copy(&home, first.clone(), destination.reference("team/other:1"))?,
        copy(&Home::new(), first, destination.reference("team/third:1"))?,
    ];
    Ok(cells)
}
