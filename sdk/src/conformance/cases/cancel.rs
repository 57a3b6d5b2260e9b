//! Cancellation at every point where the transport asks for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::conformance::bench::{Bench, During, Failure, is_missing};
use crate::conformance::drive;
use crate::conformance::image::Image;
use crate::{Error, ErrorKind, Host, HostServices, LogLevel};

type Outcome = Result<(), Failure>;

/// Says from a certain question on that the operation was stopped.
struct Countdown {
    asked: AtomicU64,
    patience: u64,
}

struct Shared(Arc<Countdown>);

impl HostServices for Shared {
    fn is_cancelled(&self) -> bool {
        self.0.asked.fetch_add(1, Ordering::SeqCst) >= self.0.patience
    }
    fn log(&self, _: LogLevel, _: &str) {}
}

/// Runs an operation with growing patience until it is not stopped any more.
///
/// Steps grow, so that an operation that asks for every chunk does not run a thousand times; every
/// early question, where most is set up, is tried.
fn with_growing_patience(
    mut operation: impl FnMut(u32, Host) -> Result<crate::Result<()>, Failure>,
) -> Outcome {
    let mut patience = 0;
    for attempt in 0..60 {
        let countdown = Arc::new(Countdown { asked: AtomicU64::new(0), patience });
        let result = operation(attempt, Host::new(Shared(countdown.clone())))?;
        if let Err(error) = result {
            ensure!(
                error.kind() == ErrorKind::Cancelled,
                "stopped at question {patience}, it should end as cancelled: {error:?}"
            );
        } else if countdown.asked.load(Ordering::SeqCst) <= patience {
            return Ok(());
        }
        patience += 1 + patience / 8;
    }
    // A transport that waits for something may ask without end; what could be tried was.
    Ok(())
}

pub fn a_cancelled_read_ends_as_cancelled(bench: &Bench<'_>) -> Outcome {
    bench.provide(0)?;
    let reference = bench.reference(0)?;
    let whole = drive::pull(&*reference, &bench.session(), None).during("reading an image")?;
    with_growing_patience(|_, host| {
        let result = drive::pull(&*reference, &bench.session_with(host), None);
        if let Ok(pulled) = &result {
            ensure!(pulled.blobs == whole.blobs, "a read that was stopped gives other bytes");
        }
        Ok(result.map(drop))
    })
}

fn write(
    bench: &Bench<'_>,
    n: u32,
    image: &Image,
    host: Host,
) -> Result<Result<(), Error>, Failure> {
    let reference = bench.reference(n)?;
    Ok(drive::push(&*reference, &bench.session_with(host), image, &[]).map(drop))
}

/// What is there after a write that may have been stopped.
#[derive(Debug, PartialEq)]
enum Found {
    Nothing,
    Old,
    New,
}

fn look(bench: &Bench<'_>, n: u32, old: Option<&Image>, new: &Image) -> Result<Found, Failure> {
    let pulled = match bench.try_pull(n)? {
        Ok(pulled) => pulled,
        Err(error) if is_missing(&error) => return Ok(Found::Nothing),
        Err(error) => return Err(error).during("what was left behind cannot be read"),
    };
    if bench.compare(&pulled, new).is_ok() {
        return Ok(Found::New);
    }
    match old {
        Some(old) => bench.compare(&pulled, old).map(|()| Found::Old),
        None => Err(Failure::new("what was left behind is not the image that was written")),
    }
}

pub fn a_cancelled_write_leaves_nothing_half_made(bench: &Bench<'_>) -> Outcome {
    let image = bench.sample(1)?;
    let readable = bench.subject.capabilities().source;
    with_growing_patience(|n, host| {
        let result = write(bench, n, &image, host)?;
        if readable {
            let found = look(bench, n, None, &image)?;
            ensure!(
                result.is_err() || found == Found::New,
                "a write that succeeded left {found:?}"
            );
            if found == Found::Nothing {
                bench.push(n, &image)?;
                bench.expect(n, &image)?;
            }
        }
        Ok(result)
    })
}

pub fn a_cancelled_overwrite_leaves_the_old_image_or_the_new(bench: &Bench<'_>) -> Outcome {
    if !bench.subject.capabilities().source {
        return Ok(());
    }
    let (old, new) = (bench.sample(1)?, bench.sample(2)?);
    bench.push(0, &old)?;
    match bench.try_push(0, &new)? {
        Ok(_) => {}
        // Storages that never overwrite have nothing to lose here.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::Conflict | ErrorKind::Unsupported | ErrorKind::InvalidInput
            ) =>
        {
            return Ok(());
        }
        Err(error) => return Err(error).during("overwriting an image"),
    }
    with_growing_patience(|_, host| {
        bench.push(0, &old)?;
        let result = write(bench, 0, &new, host)?;
        let found = look(bench, 0, Some(&old), &new)?;
        ensure!(found != Found::Nothing, "the old image is gone and the new one is not there");
        ensure!(result.is_err() || found == Found::New, "a write that succeeded left {found:?}");
        Ok(result)
    })
}
