//! A dump of every layout that crosses, for the test that keeps ABI 1 frozen.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;

use abi_stable::StableAbi;
use abi_stable::type_layout::{TLFields, TypeLayout};

use super::objects::PluginRootRef;

/// Describes the root table and every type reachable from it: names, sizes, alignments, fields,
/// and the functions in them.
///
/// The text depends on nothing but the layouts, so that it can be compared with a golden copy.
pub fn dump() -> String {
    let mut seen = HashSet::new();
    let mut texts = BTreeSet::new();
    let mut todo = vec![<PluginRootRef as StableAbi>::LAYOUT];
    while let Some(layout) = todo.pop() {
        if !seen.insert(layout.get_utypeid()) {
            continue;
        }
        texts.insert(describe(layout));
        todo.extend(layout.shared_vars().type_layouts().iter().map(|get| get()));
    }
    texts.into_iter().collect()
}

fn describe(layout: &'static TypeLayout) -> String {
    let mut text = format!(
        "{}: size {}, alignment {}\n",
        layout.full_type(),
        layout.size(),
        layout.alignment()
    );
    for field in layout.get_fields().iter().flat_map(TLFields::iter) {
        let _ = writeln!(
            text,
            "  {}: {}, size {}",
            field.name(),
            field.layout().full_type(),
            field.layout().size()
        );
        for function in field.function_range() {
            let _ = writeln!(text, "    {function}");
        }
    }
    text
}
