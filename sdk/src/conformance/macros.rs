//! The list of all cases, and the macro that makes tests of them.

/// Names every case once: its module, its name, and what it needs. The table of cases and the
/// generated tests are both made from this list.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_cases {
    ($callback:ident $($args:tt)*) => {
        $crate::$callback! { [$($args)*]
            references names_parse_again_to_the_same_names [];
            references strange_references_never_panic [];
            references the_manifest_beside_the_library_tells_what_the_transport_can_do [];

            images an_image_comes_back_byte_for_byte [Destination];
            images a_docker_image_comes_back_byte_for_byte [Destination];
            images a_manifest_keeps_its_bytes_however_it_is_written [Destination, SameManifest];
            images an_index_comes_back_with_its_instances [Destination, SeveralImages];
            images an_image_is_found_under_the_name_its_commit_gave [Destination];
            images the_current_digest_is_unknown_or_right [Destination];
            images overwriting_replaces_the_image_or_is_refused [Destination];
            images images_of_one_storage_do_not_disturb_each_other [Destination];
            images without_commit_a_new_image_is_not_there [Destination];
            images without_commit_an_old_image_stays_as_it_was [Destination];
            images nothing_is_left_in_the_temporary_directory [Destination];
            images a_deleted_image_is_gone_and_others_stay [Destination, Delete];
            images deleting_a_missing_image_is_reported_as_such [Delete];
            images tags_are_listed [Destination, Tags];

            blobs size_and_digest_may_be_unknown_beforehand [Destination];
            blobs a_blob_larger_than_many_buffers_comes_back [Destination];
            blobs chunks_of_any_size_make_the_same_blob [Destination];
            blobs an_empty_blob_is_a_blob [Destination, AnyContent];
            blobs a_sha512_blob_comes_back_or_is_refused [Destination, AnyContent];
            blobs a_blob_written_directly_into_its_file_comes_back [Destination];
            blobs a_dropped_writer_leaves_no_blob [Destination];
            blobs a_blob_can_be_put_again_after_a_broken_write [Destination];
            blobs a_blob_may_be_put_twice [Destination];
            blobs blobs_may_be_written_in_parallel [Destination];
            blobs a_missing_blob_is_not_reused [Destination];
            blobs a_reused_blob_need_not_be_written [Destination];
            blobs a_wrong_size_is_not_believed_when_reusing [Destination];
            blobs only_a_wanted_blob_or_a_candidate_is_reused [Destination];

            signatures signatures_come_back_or_are_refused [Destination];
            signatures signatures_go_with_the_image_they_were_made_for [Destination];
            signatures signatures_of_instances_stay_apart [Destination, SeveralImages];

            sources a_missing_image_is_reported_as_such [Source];
            sources a_missing_blob_is_reported_as_such [Images];
            sources an_unknown_instance_is_reported_as_such [Images];
            sources what_is_read_has_the_digest_and_size_it_is_listed_with [Images];
            sources buffers_of_any_size_read_the_same_bytes [Images];
            sources reading_resumes_at_any_offset_or_says_it_cannot [Images];
            sources an_extent_holds_what_reading_gives [Images];
            sources an_image_can_be_read_twice_and_from_several_threads [Images];

            cancel a_cancelled_read_ends_as_cancelled [Images];
            cancel a_cancelled_write_leaves_nothing_half_made [Destination];
            cancel a_cancelled_overwrite_leaves_the_old_image_or_the_new [Destination];
        }
    };
}

/// Makes the table of cases.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_table {
    ([] $($module:ident $name:ident [$($need:ident),*];)*) => {
        static CASES: &[$crate::conformance::Case] = &[$(
            $crate::conformance::Case {
                name: stringify!($name),
                needs: &[$($crate::conformance::Need::$need),*],
                run: $module::$name,
            },
        )*];
    };
}

/// Makes tests of all cases for one way to the transport.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ([$subjects:ident] $($module:ident $name:ident [$($need:ident),*];)*) => {$(
        #[test]
        fn $name() {
            $crate::conformance::check(&super::$subjects(), stringify!($name));
        }
    )*};
}

/// Makes a test of every conformance case for a transport, one for each way to it.
///
/// ```text
/// diolkos_sdk::conformance!(
///     plugin = diolkos_dir::plugin,
///     transport = "dir",
///     through = [linked, loaded]
/// );
/// ```
///
/// Capabilities come from the plugin.toml beside the package's Cargo.toml; scratch references and
/// options from its `[transport.check]`, unless they are given here, in this order, after
/// `transport`:
///
/// - `reference = |dir: &Path, n: u32| format!("{}/{n}", dir.display())`: see
///   [`Subject::new`](crate::conformance::Subject::new). The expression is evaluated for each test,
///   so that the closure may own a server.
/// - `options = [("tls-verify", "false")]`.
/// - `images = |details: &str| -> Result<()> { … }`: for transports that only read, see
///   [`Subject::with_images`](crate::conformance::Subject::with_images).
///
/// `linked` judges the traits as they are, and passed through the ABI within the test's process;
/// `loaded` opens the built library as a host does (feature `load`). A failing test carries the
/// name of its case: `loaded::a_dropped_writer_leaves_no_blob`.
#[macro_export]
macro_rules! conformance {
    (
        plugin = $plugin:path,
        transport = $transport:literal,
        $(reference = $reference:expr,)?
        $(options = $options:expr,)?
        $(images = $images:expr,)?
        through = [$($way:ident),+ $(,)?] $(,)?
    ) => {
        fn __conformance_subject(
            way: &str,
            transport: ::std::boxed::Box<dyn $crate::Transport>,
        ) -> $crate::conformance::Subject {
            #[allow(unused_mut, reason = "what is set depends on the macro's arguments")]
            let mut recipe = $crate::conformance::Recipe::new(
                concat!(env!("CARGO_MANIFEST_DIR"), "/plugin.toml"),
                $transport,
                way,
            );
            $(recipe.reference($reference);)?
            $(recipe.options($options);)?
            $(recipe.images($images);)?
            recipe.subject(transport)
        }
        $($crate::__conformance_way!($way $plugin, $transport);)+
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_way {
    (linked $plugin:path, $transport:literal) => {
        fn __conformance_linked() -> ::std::vec::Vec<$crate::conformance::Subject> {
            let find = $crate::conformance::find;
            let direct = find($plugin().transports, $transport);
            let bridged = $crate::abi::linked(env!("CARGO_PKG_NAME"), $plugin)
                .expect("the plugin makes its transports");
            ::std::vec![
                __conformance_subject("directly", direct),
                __conformance_subject("through the ABI", find(bridged, $transport)),
            ]
        }
        mod linked {
            $crate::__conformance_cases!(__conformance_tests __conformance_linked);
        }
    };
    (loaded $plugin:path, $transport:literal) => {
        fn __conformance_loaded() -> ::std::vec::Vec<$crate::conformance::Subject> {
            let loaded = $crate::conformance::library::load_own(
                env!("CARGO_PKG_NAME"),
                env!("CARGO_MANIFEST_DIR"),
            );
            let transport = $crate::conformance::find(loaded.transports, $transport);
            ::std::vec![__conformance_subject("loaded", transport)]
        }
        mod loaded {
            $crate::__conformance_cases!(__conformance_tests __conformance_loaded);
        }
    };
}
