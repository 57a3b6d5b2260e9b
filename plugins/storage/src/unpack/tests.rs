//! Layers are made with tar-rs, and unpacked as the user that runs the tests.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;

use diolkos_sdk::Host;
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;
use crate::source::Assembled;

const RULES: Rules =
    Rules { whiteouts: Whiteouts::Remove, is_confined: false, ignores_chown_errors: false };

struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o640 });
        header.set_mtime(1_000_000_000);
        header.set_uid(rustix::process::getuid().as_raw().into());
        header.set_gid(rustix::process::getgid().as_raw().into());
        header
    }

    fn file(mut self, name: &str, content: &[u8]) -> Self {
        let mut header = Self::header(EntryType::Regular, content.len() as u64);
        // Names that lead out are refused by the builder's own way to set them.
        if name.len() < 100 {
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            self.0.append(&header, content).unwrap();
        } else {
            self.0.append_data(&mut header, name, content).unwrap();
        }
        self
    }

    fn directory(mut self, name: &str) -> Self {
        let mut header = Self::header(EntryType::Directory, 0);
        self.0.append_data(&mut header, name, &[][..]).unwrap();
        self
    }

    fn link(mut self, kind: EntryType, name: &str, target: &str) -> Self {
        let mut header = Self::header(kind, 0);
        self.0.append_link(&mut header, name, target).unwrap();
        self
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

struct Tried {
    dir: tempfile::TempDir,
    result: Result<Unpacked>,
}

impl Tried {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("tree").join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Makes the archive again.
    fn again(&self) -> Vec<u8> {
        let (tree, split) = (self.dir.path().join("tree"), self.dir.path().join("split"));
        let mut assembled = Assembled::new("x", vec![tree], &split, &Host::silent()).unwrap();
        let mut bytes = Vec::new();
        let mut buffer = [0; 1000];
        loop {
            match assembled.fill(&mut buffer).unwrap() {
                0 => return bytes,
                count => bytes.extend_from_slice(&buffer[..count]),
            }
        }
    }

    fn why(self) -> String {
        self.result.unwrap_err().chain().join(": ")
    }
}

fn unpack_in_pieces(bytes: &[u8], rules: Rules, pieces: &[usize]) -> Tried {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::create_dir(tree.join("old")).unwrap();
    fs::write(tree.join("old/file"), "old").unwrap();
    let result = (|| {
        let mut unpacker = Unpacker::new(&tree, &dir.path().join("split"), rules)?;
        let mut rest = bytes;
        for size in pieces.iter().copied().chain([usize::MAX]) {
            let (now, after) = rest.split_at(size.min(rest.len()));
            unpacker.push(now)?;
            rest = after;
        }
        unpacker.finish()
    })();
    Tried { dir, result }
}

fn unpack(layer: Layer) -> Tried {
    unpack_in_pieces(&layer.bytes(), RULES, &[])
}

fn sample() -> Layer {
    let long = "d/".repeat(70) + "file";
    Layer::new()
        .directory("a/")
        .file("a/b", b"content")
        .pax(&[("mtime", b"1000000000.25"), ("SCHILY.xattr.user.x", b"a\nb=\0c")])
        .file("a/c", &[7; 1500])
        .link(EntryType::Symlink, "s", "a")
        .file("s/through", b"x")
        .link(EntryType::Link, "hard", "s/b")
        .file("implied/dir/file", b"")
        .file(&long, b"deep")
}

#[test]
fn a_layer_becomes_files_and_files_a_layer() {
    let bytes = sample().bytes();
    let tried = unpack_in_pieces(&bytes, RULES, &[]);
    let unpacked = tried.result.as_ref().unwrap();
    assert_eq!(unpacked.size, bytes.len() as u64);
    assert_eq!(unpacked.uids, [rustix::process::getuid().as_raw()]);
    assert_eq!(tried.text("a/b"), "content");
    assert_eq!(tried.text("a/through"), "x", "names lead through links, within the tree");
    let found = fs::metadata(tried.path("a/c")).unwrap();
    assert_eq!((found.mtime(), found.mtime_nsec()), (1_000_000_000, 250_000_000));
    assert_eq!(found.mode() & 0o7777, 0o640);
    let mut value = [0; 100];
    let length = rustix::fs::getxattr(tried.path("a/c"), "user.x", &mut value).unwrap();
    assert_eq!(&value[..length], b"a\nb=\0c");
    let inode = |name| fs::metadata(tried.path(name)).unwrap().ino();
    assert_eq!(inode("hard"), inode("a/b"));
    assert_eq!(fs::metadata(tried.path("a")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(fs::metadata(tried.path("implied")).unwrap().mode() & 0o7777, 0o755);
    assert!(tried.again() == bytes);
}

#[test]
fn the_root_is_never_left() {
    for name in ["../x", "a/../../x"] {
        let tried = unpack(Layer::new().file(name, b"x"));
        tried.result.as_ref().unwrap();
        assert_eq!(tried.text("x"), "x", "{name}");
        assert!(!tried.dir.path().join("x").exists(), "{name}");
    }
    let tried = unpack(
        Layer::new()
            .file("/../absolute", b"x")
            .link(EntryType::Symlink, "out", "/etc")
            .link(EntryType::Symlink, "up", "../../..")
            .directory("etc/")
            .file("out/inside", b"x")
            .file("up/inside", b"x"),
    );
    tried.result.as_ref().unwrap();
    for name in ["absolute", "etc/inside", "inside"] {
        assert_eq!(tried.text(name), "x", "{name}");
    }
    assert!(!Path::new("/etc/inside").exists());
    for target in ["/etc/passwd", "../../etc/passwd"] {
        let why = unpack(Layer::new().link(EntryType::Link, "x", target)).why();
        assert!(why.contains("no such file"), "{target}: {why}");
    }
}

#[test]
fn whiteouts_are_carried_out_where_trees_are_whole() {
    let layer = Layer::new().file(".wh.old", b"").file("old2/.wh.nothing", b"");
    let tried = unpack(layer);
    tried.result.as_ref().unwrap();
    assert!(!tried.path("old").exists());
    let layer =
        Layer::new().file("old/new", b"1").file("old/.wh..wh..opq", b"").file("old/newer", b"2");
    let tried = unpack(layer);
    tried.result.as_ref().unwrap();
    assert!(!tried.path("old/file").exists());
    assert_eq!((tried.text("old/new"), tried.text("old/newer")), ("1".into(), "2".into()));
    let files = Rules { whiteouts: Whiteouts::Files, ..RULES };
    let tried = unpack_in_pieces(&Layer::new().file(".wh.old", b"").bytes(), files, &[]);
    tried.result.as_ref().unwrap();
    assert!(tried.path("old/file").exists() && tried.path(".wh.old").exists());
}

#[test]
fn what_could_not_be_given_back_is_refused() {
    let why = unpack(Layer::new().file("a", b"1").file("./a", b"2")).why();
    assert!(why.contains("has `./a` twice"), "{why}");
    let overlay = Rules { whiteouts: Whiteouts::Devices("trusted.overlay.opaque"), ..RULES };
    let layer =
        Layer::new().file("d/a", b"1").link(EntryType::Symlink, "s", "d").file("s/a", b"2").bytes();
    let why = unpack_in_pieces(&layer, overlay, &[]).why();
    assert!(why.contains("writes over `s/a`"), "{why}");
}

#[test]
fn a_whiteout_with_content_and_a_link_with_a_size_come_back() {
    let mut link = Layer::header(EntryType::Link, 0);
    link.set_size(7);
    link.as_gnu_mut().unwrap().name[..4].copy_from_slice(b"link");
    link.as_gnu_mut().unwrap().linkname[..1].copy_from_slice(b"a");
    link.set_cksum();
    let mut layer = Layer::new().file(".wh.x", b"odd").file("a", b"content");
    layer.0.append(&link, &[][..]).unwrap();
    let bytes = layer.file("b", b"after").bytes();
    let tried = unpack_in_pieces(&bytes, RULES, &[]);
    tried.result.as_ref().unwrap();
    assert_eq!((tried.text("link"), tried.text("b")), ("content".into(), "after".into()));
    assert!(tried.again() == bytes);
}

#[test]
fn files_with_holes_get_their_holes_and_their_archive_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse");
    let mut file = File::create(&path).unwrap();
    file.write_all(&[1; 5000]).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[2; 100], 1 << 20).unwrap();
    file.set_len(3 << 20).unwrap();
    for format in ["gnu", "pax"] {
        let made = std::process::Command::new("tar")
            .args(["--sparse", "--format", format, "-C"])
            .arg(dir.path())
            .args(["-cf", "-", "sparse"])
            .output()
            .unwrap();
        assert!(made.status.success() && made.stdout.len() < 100_000, "tar makes a sparse archive");
        let tried = unpack_in_pieces(&made.stdout, RULES, &[]);
        tried.result.as_ref().unwrap();
        assert!(fs::read(tried.path("sparse")).unwrap() == fs::read(&path).unwrap(), "{format}");
        assert!(tried.again() == made.stdout, "{format}");
    }
}

#[test]
fn an_archive_that_was_cut_short_is_no_layer() {
    let bytes = Layer::new().file("a", &[1; 2000]).file("b", &[2; 600]).bytes();
    let end = bytes.len() - 1024;
    for length in 0..end {
        let whole = matches!(length, 0 | 512..=512) && length == 0;
        let tried = unpack_in_pieces(&bytes[..length], RULES, &[]);
        let at_a_header = length == 0 || length == 512 + 2048;
        let in_padding = (512 + 2000..512 + 2048).contains(&length) || length >= end - 424;
        assert_eq!(tried.result.is_ok(), at_a_header || in_padding || whole, "{length}");
    }
    for length in [end, end + 512, end + 1024, bytes.len()] {
        unpack_in_pieces(&bytes[..length], RULES, &[]).result.unwrap();
    }
}

#[test]
fn what_follows_the_end_comes_back() {
    let mut bytes = Layer::new().file("a", b"1").bytes();
    bytes.extend(vec![0; 9000]);
    bytes.extend(b"odd");
    let tried = unpack_in_pieces(&bytes, RULES, &[]);
    tried.result.as_ref().unwrap();
    assert!(tried.again() == bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_of_any_size_make_the_same_tree(pieces in proptest::collection::vec(0..3000usize, 0..40)) {
        let bytes = sample().bytes();
        let tried = unpack_in_pieces(&bytes, RULES, &pieces);
        prop_assert!(tried.result.is_ok());
        prop_assert!(tried.again() == bytes);
        prop_assert_eq!(tried.text("a/b"), "content");
    }

    #[test]
    fn damaged_layers_are_refused_or_come_back(
        changes in proptest::collection::vec((0..12_000usize, any::<u8>()), 1..8),
        fixed in any::<bool>(),
    ) {
        let mut bytes = sample().bytes();
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        if fixed {
            // With right sums, what is wrong gets past the first check.
            for block in bytes.chunks_exact_mut(512) {
                if block[257..262] == *b"ustar" {
                    let mut header = Header::from_byte_slice(block).clone();
                    header.set_cksum();
                    block.copy_from_slice(header.as_bytes());
                }
            }
        }
        let overlay = Rules { whiteouts: Whiteouts::Devices("trusted.overlay.opaque"), ..RULES };
        let tried = unpack_in_pieces(&bytes, overlay, &[700, 13]);
        if tried.result.is_ok() {
            prop_assert!(tried.again() == bytes);
        }
    }
}

fn overlay() -> Rules {
    // As a user who may set no attributes of the system's.
    Rules { whiteouts: Whiteouts::Devices("user.overlay.opaque"), ..RULES }
}

#[test]
fn what_is_content_is_said_by_the_type_and_not_by_the_name() {
    let mut inner = Layer::header(EntryType::Regular, 0);
    inner.as_gnu_mut().unwrap().name[..4].copy_from_slice(b"evil");
    inner.set_cksum();
    let bytes = Layer::new().file("d/", inner.as_bytes()).file("e", b"after").bytes();
    let tried = unpack_in_pieces(&bytes, RULES, &[]);
    tried.result.as_ref().unwrap();
    assert!(tried.path("d").is_file() && !tried.path("evil").exists());
    assert_eq!(tried.text("e"), "after");
    assert!(tried.again() == bytes);
    // Only the oldest archives have no type for directories.
    let mut old = Layer::header(EntryType::Regular, 0);
    old.as_old_mut().linkflag = [0];
    old.as_gnu_mut().unwrap().name[..4].copy_from_slice(b"old/");
    old.set_cksum();
    let mut layer = Layer::new();
    layer.0.append(&old, &[][..]).unwrap();
    let tried = unpack(layer);
    tried.result.as_ref().unwrap();
    assert!(tried.path("old").is_dir());
}

#[test]
fn capabilities_stay_on_a_file_that_gets_another_name() {
    if !rustix::process::geteuid().is_root() {
        return; // Only root gives capabilities.
    }
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = Layer::new()
        .pax(&[("SCHILY.xattr.security.capability", &capability)])
        .file("ping", b"x")
        .link(EntryType::Link, "ping6", "ping");
    let tried = unpack(layer);
    tried.result.as_ref().unwrap();
    let mut value = [0; 100];
    let length =
        rustix::fs::getxattr(tried.path("ping6"), "security.capability", &mut value).unwrap();
    assert_eq!(&value[..length], capability);
}

#[test]
fn a_global_header_has_the_name_that_it_has() {
    let mut header = Layer::header(EntryType::XGlobalHeader, 12);
    let name = b"./PaxHeaders/global";
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
    header.set_cksum();
    let mut layer = Layer::new();
    layer.0.append(&header, &b"12 comment=x"[..]).unwrap();
    let bytes = layer.file("pax_global_header", b"a file").bytes();
    let tried = unpack_in_pieces(&bytes, RULES, &[]);
    tried.result.as_ref().unwrap();
    assert_eq!(tried.text("pax_global_header"), "a file");
    assert!(tried.again() == bytes);
    let split = fs::read(tried.dir.path().join("split")).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*split), &mut text).unwrap();
    assert!(text.contains(r#""name":"./PaxHeaders/global""#), "{text}");
}

#[test]
fn whiteouts_below_what_is_hidden_say_nothing_more() {
    if !rustix::process::geteuid().is_root() {
        return; // Only root makes devices.
    }
    let bytes = Layer::new().file(".wh.foo", b"").file("foo/.wh.bar", b"").bytes();
    let tried = unpack_in_pieces(&bytes, overlay(), &[]);
    tried.result.as_ref().unwrap();
    let found = fs::symlink_metadata(tried.path("foo")).unwrap();
    assert_eq!((found.mode() & 0o170_000, found.rdev()), (0o020_000, 0));
    assert!(tried.again() == bytes);
}

#[test]
fn a_whiteout_hides_a_file_by_its_name_and_nothing_above() {
    for name in [".wh...", ".wh..", "old/.wh...", ".wh."] {
        for rules in [RULES, overlay()] {
            let tried = unpack_in_pieces(&Layer::new().file(name, b"").bytes(), rules, &[]);
            assert!(tried.path("old/file").exists(), "{name}");
            assert!(tried.why().contains("hides no file"), "{name}");
        }
    }
}

#[test]
fn an_owner_that_is_none_is_refused() {
    let mut header = Layer::header(EntryType::Regular, 0);
    header.set_uid(u32::MAX.into());
    header.as_gnu_mut().unwrap().name[..1].copy_from_slice(b"a");
    header.set_cksum();
    let mut layer = Layer::new();
    layer.0.append(&header, &[][..]).unwrap();
    assert!(unpack(layer).why().contains("its owner is no owner"));
}

#[test]
fn names_that_wind_and_begin_with_slashes_come_back() {
    let bytes =
        Layer::new().directory("a/").file("/a", b"").file("x/../b", b"b").file("/c", b"c").bytes();
    let tried = unpack_in_pieces(&bytes, RULES, &[]);
    tried.result.as_ref().unwrap();
    assert_eq!((tried.text("b"), tried.text("c")), ("b".into(), "c".into()));
    assert!(tried.again() == bytes);
}

#[test]
fn trees_as_deep_as_paths_go_are_emptied_and_removed() {
    let deep = vec!["d"; 1900].join("/");
    let layer = Layer::new().directory("opaque").directory(&format!("opaque/{deep}"));
    let layer = layer.file("opaque/.wh..wh..opq", b"").file(".wh.opaque", b"");
    let tried = unpack_in_pieces(&layer.bytes(), RULES, &[]);
    tried.result.as_ref().unwrap();
    assert!(!tried.path("opaque").exists());
    assert!(tried.path("old/file").exists());
}

#[test]
fn an_archive_that_makes_a_name_twice_is_no_conflict_with_anybody() {
    let rules = Rules { whiteouts: Whiteouts::Devices("trusted.overlay.opaque"), ..RULES };
    let layer = Layer::new().file("a", b"x").file(".wh.a", b"");
    let tried = unpack_in_pieces(&layer.bytes(), rules, &[]);
    assert_eq!(tried.result.as_ref().unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(tried.why().contains("`.wh.a` makes is there already"));
}
