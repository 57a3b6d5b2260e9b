//! Templates against what Go's `text/template` prints.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::image::time::GoTime;

#[derive(serde::Serialize)]
#[serde(rename_all = "PascalCase")]
struct Output {
    zulu: &'static str,
    alpha: Option<String>,
}

fn data() -> Value {
    let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b.c".into(), "<2>".into())]);
    let layer = Value::structure(
        "types.ImageInspectLayer",
        vec![("Digest", Value::text("sha256:1")), ("Size", Value::Int(-1))],
        &serde_json::json!({"Digest": "sha256:1", "Size": -1}),
    );
    let time = GoTime::parse("2022-11-16T07:26:42.618327645Z").unwrap();
    Value::structure(
        "inspect.Output",
        vec![
            ("Name", Value::text("docker.io/library/busybox")),
            ("Empty", Value::text("")),
            ("Created", Value::Time(Some(time))),
            ("Never", Value::Time(None)),
            ("Labels", Value::text_map(Some(&labels))),
            ("NoLabels", Value::text_map(None)),
            ("Layers", Value::texts(Some(&["x".to_owned(), "y".into(), "z".into()]))),
            ("NoLayers", Value::texts(None)),
            ("LayersData", Value::List(Some(Arc::new(vec![layer.clone(), layer])), "[]L")),
        ],
        &Output { zulu: "<&>", alpha: None },
    )
}

/// Renders without the line end that every output has.
fn rendered(format: &str) -> String {
    let output = render(format, data()).unwrap_or_else(|error| panic!("{format}: {error}"));
    output.strip_suffix('\n').expect("every output ends with a line end").to_owned()
}

fn refused(format: &str) -> String {
    let error = render(format, data()).expect_err(format);
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    error.to_string()
}

#[test]
fn fields_print_as_go_prints_them() {
    for (format, expected) in [
        ("{{.Name}}", "docker.io/library/busybox"),
        ("{{ .Name }}:{{.Empty}}!", "docker.io/library/busybox:!"),
        ("{{.Created}}", "2022-11-16 07:26:42.618327645 +0000 UTC"),
        ("{{.Never}}", "<nil>"),
        ("{{.Labels}}", "map[a:1 b.c:<2>]"),
        ("{{.NoLabels}} {{.NoLayers}}", "map[] []"),
        ("{{.Layers}}", "[x y z]"),
        ("{{.LayersData}}", "[{sha256:1 -1} {sha256:1 -1}]"),
        ("{{.Labels.a}}{{.Labels.missing}}", "1<no value>"),
        ("{{index .Labels \"b.c\"}}{{index .Labels \"x\"}}", "<2>"),
        ("{{index .Layers 1}}", "y"),
        ("{{(index .LayersData 0).Size}}", "-1"),
        ("{{json .}}", r#"{"Zulu":"<&>","Alpha":null}"#),
        ("{{json .Labels}}{{json .Layers}}", r#"{"a":"1","b.c":"<2>"}["x","y","z"]"#),
        ("{{json .NoLayers}}{{json .Created}}", r#"null"2022-11-16T07:26:42.618327645Z""#),
        (
            "{{json .LayersData}}",
            r#"[{"Digest":"sha256:1","Size":-1},{"Digest":"sha256:1","Size":-1}]"#,
        ),
        ("plain", "plain"),
        (r"a\tb\nc", "a\tb\nc"),
    ] {
        assert_eq!(rendered(format), expected, "{format}");
    }
}

#[test]
fn one_line_end_is_added_and_only_one() {
    assert_eq!(render("{{.Empty}}", data()).unwrap(), "\n");
    assert_eq!(render("x\n", data()).unwrap(), "x\n");
    assert_eq!(render(r"x\n", data()).unwrap(), "x\n");
}

#[test]
fn loops_branches_and_variables_work() {
    for (format, expected) in [
        ("{{range .Layers}}[{{.}}]{{end}}", "[x][y][z]"),
        ("{{range $i, $l := .Layers}}{{$i}}={{$l}} {{end}}", "0=x 1=y 2=z "),
        ("{{range $l := .Layers}}{{$l}}{{end}}", "xyz"),
        ("{{range $k, $v := .Labels}}{{$k}}:{{$v}};{{end}}", "a:1;b.c:<2>;"),
        ("{{range .NoLayers}}x{{else}}none{{end}}", "none"),
        ("{{range .Layers}}x{{else}}none{{end}}", "xxx"),
        ("{{range .Layers}}{{if eq . \"y\"}}{{break}}{{end}}{{.}}{{end}}", "x"),
        ("{{range .Layers}}{{if eq . \"y\"}}{{continue}}{{end}}{{.}}{{end}}", "xz"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{if .Empty}}a{{else if .Name}}b{{else}}c{{end}}", "b"),
        ("{{if and .Name .Empty}}a{{else}}b{{end}}", "b"),
        ("{{if not .Empty}}{{if or .Empty .Name}}yes{{end}}{{end}}", "yes"),
        ("{{with .Labels}}{{.a}}{{end}}{{with .Empty}}x{{else}}-{{end}}", "1-"),
        ("{{with $x := .Name}}{{$x}}{{end}}", "docker.io/library/busybox"),
        ("{{$n := 1}}{{range .Layers}}{{$n = .}}{{end}}{{$n}}", "z"),
        ("{{range .Layers}}{{$.Missing}}{{end}}", ""),
        ("a {{- .Empty -}} b{{/* a comment */}}c {{- /* another */ -}} d", "abcd"),
        (
            "{{define \"t\"}}<{{.}}>{{end}}{{range .}}{{template \"t\" .Name}}{{end}}",
            "<docker.io/library/busybox>",
        ),
        ("{{block \"t\" .Layers}}{{len .}}{{end}}", "3"),
        ("{{range .}}{{.Name}}{{end}}", "docker.io/library/busybox"),
        ("{{range.}}{{.Name}}{{end -}}", "docker.io/library/busybox"),
    ] {
        if format.contains("$.Missing") {
            // `$` is the list around the data, as in the original.
            assert!(
                refused(format).contains("can't evaluate field Missing in type []interface {}")
            );
            continue;
        }
        let output = render(format, data()).unwrap_or_else(|error| panic!("{format}: {error}"));
        assert_eq!(output.trim_end_matches('\n'), expected, "{format}");
    }
}

#[test]
fn functions_do_what_gos_do() {
    for (format, expected) in [
        ("{{len .Layers}}{{len .Labels}}{{len .Name}}{{len .NoLayers}}", "32250"),
        ("{{join .Layers \", \"}}", "x, y, z"),
        ("{{upper .Name | lower}}", "docker.io/library/busybox"),
        ("{{title \"ab cd_ef-gh\"}}", "Ab Cd_ef-Gh"),
        ("{{split \"a,b\" \",\"}}{{index (split \"a/b\" \"/\") 1}}", "[a b]b"),
        ("{{truncate .Name 6}}|{{truncate \"ab\" 6}}", "docker|ab"),
        ("{{pad \"a\" 1 2}}|{{pad \"\" 1 2}}", " a  |"),
        ("{{print 1 2 \"a\" \"b\" 3}}", "1 2a b3".replace("a b", "ab").as_str()),
        (
            "{{printf \"%s-%5d|%-5s|%05d|%q|%v|%t|%x\" .Name 42 \"ab\" -42 \"a\\\"\" .Layers true 255}}",
            "docker.io/library/busybox-   42|ab   |-0042|\"a\\\"\"|[x y z]|true|ff",
        ),
        (
            "{{printf \"%d\" \"a\"}} {{printf \"%s\"}} {{printf \"x\" 1}} {{printf \"%.2f%%\" 1.005}}",
            "%!d(string=a) %!s(MISSING) x%!(EXTRA int=1) 1.00%",
        ),
        (
            "{{eq 1 1}}{{ne \"a\" \"b\"}}{{lt 1 2}}{{ge \"b\" \"a\"}}{{eq 1 2 1}}",
            "truetruetruetruetrue",
        ),
        ("{{eq .Never nil}}{{not .Never}}", "truetrue"),
        (
            "{{html \"<a b='c'>\"}}{{js \"'<\"}}{{urlquery \"a b&\"}}",
            "&lt;a b=&#39;c&#39;&gt;\\'\\u003Ca+b%26",
        ),
        ("{{slice .Name 0 6}}{{slice .Layers 1}}", "docker[y z]"),
        ("{{0x10}}{{'a'}}{{1.5}}{{1e3}}{{-3}}{{true}}{{`raw\"`}}", "16971.51000-3trueraw\""),
        ("{{.Name | printf \"%s/%s\" \"x\"}}", "x/docker.io/library/busybox"),
        ("{{(.Labels).a}}{{(printf \"%d\" 1) | len}}", "11"),
        ("{{println .Empty}}", "\n"),
    ] {
        assert_eq!(rendered(format), expected, "{format}");
    }
}

#[test]
fn a_table_is_aligned_in_columns() {
    assert_eq!(
        render("table {{.Name}} {{len .Layers}} x", data()).unwrap(),
        "docker.io/library/busybox  3           x\n"
    );
}

#[test]
fn a_backslash_that_is_meant_survives() {
    assert_eq!(render(r#"{{printf "a\nb"}}"#, data()).unwrap(), "a\nb");
}

#[test]
fn errors_say_where_and_what() {
    for (format, expected) in [
        (
            "{{.Foo}}",
            "template: skopeo inspect:1:13: executing \"skopeo inspect\" at <.Foo>: can't evaluate \
             field Foo in type interface {}",
        ),
        (
            "\n {{.Name.Foo}}",
            "template: skopeo inspect:2:3: executing \"skopeo inspect\" at <.Name.Foo>: can't \
             evaluate field Foo in type string",
        ),
        ("{{.Name", "template: skopeo inspect:1: unexpected \"{\" in operand"),
        ("{{foo}}", "template: skopeo inspect:1: function \"foo\" not defined"),
        ("{{if .Name}}x", "template: skopeo inspect:1: unexpected EOF"),
        ("{{.Name}}{{end}}{{end}}", "template: skopeo inspect:1: unexpected {{end}}"),
        ("{{$x}}", "template: skopeo inspect:1: undefined variable \"$x\""),
        ("{{}}", "template: skopeo inspect:1: missing value for command"),
        ("{{1 | 2}}", "template: skopeo inspect:1: non executable command in pipeline stage 2"),
        ("{{12a}}", "template: skopeo inspect:1: bad number syntax: \"12a\""),
        ("{{range .}}{{end}}{{break}}", ""),
        ("{{(.Name}}", "template: skopeo inspect:1: unclosed left paren"),
        ("{{\"a}}", "template: skopeo inspect:1: unterminated quoted string"),
        ("{{range .Name}}{{end}}", ""),
        ("{{index .Layers 7}}", ""),
        ("{{len 3}}", ""),
        ("{{lt 1 \"a\"}}", ""),
        ("{{join .Name \",\"}}", ""),
        ("{{.Name 1}}", ""),
        ("{{1 2}}", ""),
        ("{{nil}}", ""),
        ("{{template \"nope\"}}", ""),
        ("{{define \"t\"}}{{template \"t\"}}{{end}}{{range .}}{{template \"t\"}}{{end}}", ""),
        ("{{define \"t\"}}{{end}}", "template: skopeo inspect:1: unexpected <define> in command"),
        ("{{call .Name}}", ""),
        ("{{lower 1}}", ""),
    ] {
        let message = refused(format);
        assert!(message.starts_with("template: skopeo inspect:"), "{format}: {message}");
        assert!(expected.is_empty() || message == expected, "{format}: {message}");
    }
}

#[test]
fn formats_that_mean_json_are_recognised() {
    for format in ["", "json", " json\n", "{{json}}", "{{ json }}", "{{json.}}", " {{ json. }} "] {
        assert!(is_json(format), "{format}");
    }
    for format in ["{{json .}}", "{{ json . }}", "jsonx", "{{.json}}"] {
        assert!(!is_json(format), "{format}");
    }
}

#[test]
fn deep_nesting_is_refused_and_not_a_stack_overflow() {
    let parens = format!("{{{{{}1{}}}}}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(refused(&parens).contains("nested too deeply"));
    let inner = "{{if 1}}".repeat(90) + "{{template \"t\"}}" + &"{{end}}".repeat(90);
    let calls = format!("{{{{define \"t\"}}}}{inner}{{{{end}}}}{{{{range .}}}}{inner}{{{{end}}}}");
    assert!(refused(&calls).contains("exceeded maximum template depth"));
    let blocks = "{{if 1}}".repeat(100_000) + &"{{end}}".repeat(100_000);
    assert!(refused(&blocks).contains("nested too deeply"));
    let elses = "{{if 0}}{{else if 0}}".to_owned() + &"{{else if 0}}".repeat(100_000) + "{{end}}";
    assert!(refused(&elses).contains("nested too deeply"));
}

proptest! {
    #[test]
    fn any_text_is_rendered_or_refused(format in "\\PC{0,60}") {
        let _ = render(&format, data());
    }

    #[test]
    fn any_action_is_rendered_or_refused(
        parts in proptest::collection::vec(
            prop_oneof![
                Just("{{"), Just("}}"), Just(" -}}"), Just("{{- "), Just(".Name"), Just(".Layers"),
                Just(".Labels"), Just("."), Just("$"), Just("$x"), Just(" := "), Just(" = "),
                Just("range "), Just("if "), Just("with "), Just("else "), Just("end"), Just("("),
                Just(")"), Just("|"), Just(","), Just(" "), Just("index "), Just("printf "),
                Just("\"%5.2v\""), Just("slice "), Just("json "), Just("1"), Just("-2"),
                Just("9223372036854775807"), Just("1.5e300"), Just("'\\n'"), Just("`"), Just("nil"),
                Just("define \"t\""), Just("template \"t\" "), Just("eq "), Just("lt "),
                Just("truncate "), Just("pad "), Just("/*"), Just("*/"), Just("é"), Just("\n"),
                Just("break"), Just("\"\\u00e9\""), Just("len "), Just("and "),
            ],
            0..24,
        ),
    ) {
        let _ = render(&parts.concat(), data());
    }
}
