//! What a test measures of a program, and the material it measures with.

use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// Runs a program that succeeds, without its words; returns the most memory that it ever had, as long
/// as it could be seen.
///
/// # Panics
/// When it cannot be run, or fails.
#[track_caller]
pub fn peak_memory(command: &mut Command) -> u64 {
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    let (status, peak) = watch(&mut command.spawn().expect("the program starts"));
    assert!(status.success(), "{status}");
    peak
}

/// Waits for a child; returns how it ended, and the most memory that it ever had.
fn watch(child: &mut Child) -> (ExitStatus, u64) {
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        // The system keeps the high-water mark, so that only the last moments can be missed.
        let status = fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = kilobytes.map_or(peak, |now: u64| now.max(peak));
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return (status, peak * 1024);
        }
        sleep(Duration::from_millis(2));
    }
}

/// Makes bytes that no compression makes fewer, the same for the same seed.
pub fn noise(size: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let words = (0..size.div_ceil(4)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    });
    words.take(size).collect()
}
