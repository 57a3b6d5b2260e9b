//! Reading YAML, within limits.

use diolkos_sdk::Result;
use serde::de::DeserializeOwned;
use serde_saphyr::{UserMessageFormatter, alias_limits, budget, options};

use super::text::invalid;

/// Reads a document; `None` if the text holds none.
///
/// A text of a few hundred bytes can stand for gigabytes, by aliases of aliases: what is built
/// counts, not what is written.
///
/// # Errors
/// [`ErrorKind::InvalidInput`](diolkos_sdk::ErrorKind::InvalidInput), naming the line.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<Option<T>> {
    let options = options! {
        budget: budget! {
            max_depth: 16,
            max_documents: 1,
            max_nodes: 100_000,
            max_events: 200_000,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_merge_keys: 1_000,
        },
        alias_limits: alias_limits! {
            max_total_replayed_events: 50_000,
            max_replay_stack_depth: 8,
        },
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        // "... at line 3, column 5", which may go over several lines itself.
        let message = error.render_with_formatter(&UserMessageFormatter);
        invalid(message.split_whitespace().collect::<Vec<_>>().join(" "))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Write;

    use serde::Deserialize;

    use super::*;

    type Map = BTreeMap<String, String>;

    fn refusal<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> String {
        parse::<T>(text).unwrap_err().message().to_owned()
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        #[serde(rename = "a")]
        _a: Option<Vec<String>>,
    }

    #[test]
    fn nothing_is_none() {
        for text in ["", "# only a comment\n", "---\n", "~"] {
            assert!(parse::<Map>(text).unwrap().is_none(), "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, words) in [
            ("a: []\na: []", "line 2"),
            ("b: 1", "unknown field `b`"),
            ("a: x", "line 1"),
            ("a: [", "line 1"),
            ("a: []\n---\na: []\n", "document"),
            ("\n\n- 1", "line 3"),
        ] {
            let refusal = refusal::<Strict>(text);
            assert!(refusal.contains(words), "{text:?}: {refusal}");
        }
    }

    #[test]
    fn a_text_that_explodes_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let items = vec![format!("*a{}", level - 1); 10].join(", ");
            writeln!(text, "a{level}: &a{level} [{items}]").unwrap();
        }
        let refusal_of_aliases = refusal::<BTreeMap<String, serde_json::Value>>(&text);
        assert!(refusal_of_aliases.contains("too large or too complex"), "{refusal_of_aliases}");
        refusal::<serde_json::Value>(&"[".repeat(10_000));
    }
}
