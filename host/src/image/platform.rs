//! Which platforms fit the user's choice, best first.

use diolkos_sdk::{Platform, PlatformChoice};

/// Returns the platform that this program runs on, without variant.
pub(super) fn host() -> Platform {
    Platform {
        architecture: Platform::host_architecture().to_owned(),
        os: Platform::host_os().to_owned(),
        ..Platform::default()
    }
}

/// Variants from the most demanding to the least, for architectures that have any.
fn known_variants(architecture: &str) -> &'static [&'static str] {
    match architecture {
        "arm" => &["v8", "v7", "v6", "v5"],
        "arm64" => &["v8"],
        _ => &[],
    }
}

/// The platforms that an instance may be for, best first.
///
/// This machine's own variant is only asked for when its architecture is what the user wants.
pub(super) struct Wanted {
    os: String,
    architecture: String,
    variants: Vec<String>,
}

impl Wanted {
    pub(super) fn new(choice: &PlatformChoice) -> Self {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let own_variant = || match given(&choice.architecture) {
            Some(_) => String::new(),
            None => host_variant(Platform::host_architecture()),
        };
        let architecture =
            given(&choice.architecture).unwrap_or_else(|| Platform::host_architecture().to_owned());
        let variant = given(&choice.variant).unwrap_or_else(own_variant);
        let known = known_variants(&architecture);
        let variants: Vec<&str> = if variant.is_empty() {
            std::iter::once("").chain(known.iter().copied()).collect()
        } else {
            let compatible = match known.iter().position(|known| *known == variant) {
                Some(at) => &known[at..],
                None => &[variant.as_str()],
            };
            compatible.iter().copied().chain([""]).collect()
        };
        Self {
            os: given(&choice.os).unwrap_or_else(|| Platform::host_os().to_owned()),
            variants: variants.into_iter().map(str::to_owned).collect(),
            architecture,
        }
    }

    /// Returns how well a platform fits, 0 the best.
    pub(super) fn rank(&self, platform: &Platform) -> Option<usize> {
        if platform.os != self.os || platform.architecture != self.architecture {
            return None;
        }
        self.variants.iter().position(|variant| *variant == platform.variant)
    }

    /// Names the best platform, for messages.
    pub(super) fn describe(&self) -> String {
        format!(
            "architecture {:?}, variant {:?}, OS {:?}",
            self.architecture, self.variants[0], self.os
        )
    }
}

/// Returns the variant of this machine's CPU, empty where there is none or it cannot be told.
fn host_variant(architecture: &str) -> String {
    if !matches!(architecture, "arm" | "arm64") {
        return String::new();
    }
    match Platform::host_os() {
        "darwin" | "windows" => if architecture == "arm64" { "v8" } else { "v7" }.to_owned(),
        _ => std::fs::read_to_string("/proc/cpuinfo")
            .map(|text| variant_of_cpuinfo(&text).to_owned())
            .unwrap_or_default(),
    }
}

/// Reads the variant from what Linux says of the first core.
fn variant_of_cpuinfo(text: &str) -> &'static str {
    let field = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            let value = value.split(':').next().unwrap_or_default();
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_ascii_lowercase())
        })
    };
    match field("cpu architecture").unwrap_or_default().as_str() {
        "8" | "aarch64" => "v8",
        // The kernel says 7 on a Raspberry Pi Zero, whose CPU is an ARMv6.
        "7" if field("model name").is_some_and(|name| name.starts_with("armv6-compatible")) => "v6",
        "7" | "7m" | "?(12)" | "?(13)" | "?(14)" | "?(15)" | "?(16)" | "?(17)" => "v7",
        "6" | "6tej" => "v6",
        "5" | "5t" | "5te" | "5tej" => "v5",
        "4" | "4t" => "v4",
        "3" => "v3",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(architecture: &str, variant: &str) -> PlatformChoice {
        PlatformChoice {
            os: Some("linux".into()),
            architecture: Some(architecture.into()),
            variant: (!variant.is_empty()).then(|| variant.into()),
        }
    }

    #[test]
    fn variants_go_from_the_one_asked_for_down_to_none() {
        let variants = |architecture, variant| Wanted::new(&choice(architecture, variant)).variants;
        assert_eq!(variants("arm", "v7"), ["v7", "v6", "v5", ""]);
        assert_eq!(variants("arm", ""), ["", "v8", "v7", "v6", "v5"]);
        assert_eq!(variants("arm64", ""), ["", "v8"]);
        assert_eq!(variants("amd64", ""), [""]);
        assert_eq!(variants("amd64", "v2"), ["v2", ""]);
    }

    #[test]
    fn what_is_left_open_is_this_machine() {
        let wanted = Wanted::new(&PlatformChoice::default());
        assert_eq!(
            wanted.rank(&host()).is_some(),
            known_variants(Platform::host_architecture()).is_empty()
        );
        assert_eq!(wanted.os, Platform::host_os());
    }

    #[test]
    fn cpus_are_told_apart_by_what_linux_says() {
        for (text, variant) in [
            ("processor : 0\nCPU architecture: 8\nCPU architecture: 7\n", "v8"),
            ("model name : ARMv7 Processor rev 3 (v7l)\nCPU architecture: 7\n", "v7"),
            ("model name\t: ARMv6-compatible processor\nCPU architecture: 7\n", "v6"),
            ("CPU architecture: 5TEJ\n", "v5"),
            ("vendor_id : GenuineIntel\n", ""),
            ("", ""),
        ] {
            assert_eq!(variant_of_cpuinfo(text), variant, "{text}");
        }
    }
}
