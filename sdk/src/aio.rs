//! For authors whose libraries are async: a runtime of the plugin's own.
//!
//! Each shared library has its own copy of every static, tokio's included, so nothing async crosses
//! the ABI. A plugin keeps one [`Runtime`] and enters it from the blocking trait methods:
//!
//! - [`Runtime::block_on`] runs a future and gives up when the host cancels, so that a blocked
//!   transfer stops within a fraction of a second.
//! - [`Runtime::reader`] turns a source of chunks into a [`BlobReader`].
//! - [`chunks`] makes the bounded channel through which a [`crate::BlobWriter`] feeds a request
//!   body.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::transport::BlobReader;
use crate::{Error, ErrorKind, Host, Result, ResultExt};

/// How often a waiting call asks whether the host has cancelled.
const CANCEL_INTERVAL: Duration = Duration::from_millis(100);

/// A tokio runtime with a few threads; clones share it.
///
/// The last clone may be dropped anywhere, also by a future that it runs itself; what still runs
/// then is given up.
#[derive(Clone)]
pub struct Runtime(Arc<Threads>);

struct Threads(Option<tokio::runtime::Runtime>);

impl Threads {
    fn get(&self) -> &tokio::runtime::Runtime {
        self.0.as_ref().expect("it is taken out when it is dropped, and not before")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // To wait for it is forbidden to those that run on it.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A future that yields the next chunk of a blob, `None` at its end.
pub type NextChunk<B> = Pin<Box<dyn Future<Output = Result<Option<B>>> + Send>>;

impl Runtime {
    /// Starts a runtime whose threads carry `name`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the system gives no threads.
    pub fn new(name: &str) -> Result<Self> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(name)
            .enable_all()
            .build()
            .map(|runtime| Self(Arc::new(Threads(Some(runtime)))))
            .context(|| "cannot start the threads for network requests")
    }

    /// Runs a future to its end, or until the host cancels.
    ///
    /// # Errors
    /// The future's own, or [`ErrorKind::Cancelled`].
    pub fn block_on<T>(&self, host: &Host, future: impl Future<Output = Result<T>>) -> Result<T> {
        host.check_cancelled()?;
        self.0.get().block_on(async {
            let mut future = std::pin::pin!(future);
            loop {
                match tokio::time::timeout(CANCEL_INTERVAL, future.as_mut()).await {
                    Ok(result) => return result,
                    Err(_) => host.check_cancelled()?,
                }
            }
        })
    }

    /// Starts a future that goes on beside its caller; its result is dropped.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.0.get().spawn(future);
    }

    /// Makes a reader from a function that yields chunks of any length.
    pub fn reader<B, F>(&self, host: &Host, next: F) -> Box<dyn BlobReader>
    where
        B: AsRef<[u8]> + Send + 'static,
        F: FnMut() -> NextChunk<B> + Send + 'static,
    {
        Box::new(ChunkReader {
            runtime: self.clone(),
            host: host.clone(),
            next,
            chunk: None,
            used: 0,
        })
    }
}

struct ChunkReader<B, F> {
    runtime: Runtime,
    host: Host,
    next: F,
    chunk: Option<B>,
    used: usize,
}

impl<B, F> BlobReader for ChunkReader<B, F>
where
    B: AsRef<[u8]> + Send,
    F: FnMut() -> NextChunk<B> + Send,
{
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            if let Some(chunk) = &self.chunk {
                let rest = &chunk.as_ref()[self.used..];
                if !rest.is_empty() {
                    let count = rest.len().min(buffer.len());
                    buffer[..count].copy_from_slice(&rest[..count]);
                    self.used += count;
                    return Ok(count);
                }
            }
            self.used = 0;
            self.chunk = self.runtime.block_on(&self.host, (self.next)())?;
            if self.chunk.is_none() {
                return Ok(0);
            }
        }
    }
}

/// Makes a channel that holds at most `capacity` chunks, from blocking code to async code.
pub fn chunks(capacity: usize) -> (ChunkSender, ChunkReceiver) {
    let (sender, receiver) = mpsc::channel(capacity);
    (ChunkSender(sender), ChunkReceiver(receiver))
}

/// The blocking end of [`chunks`].
pub struct ChunkSender(mpsc::Sender<Result<Vec<u8>>>);

impl ChunkSender {
    /// Hands a chunk over, waiting for room.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the other end is gone, [`ErrorKind::Cancelled`].
    pub fn send(&self, runtime: &Runtime, host: &Host, chunk: Vec<u8>) -> Result<()> {
        runtime.block_on(host, async {
            self.0
                .send(Ok(chunk))
                .await
                .map_err(|_| Error::new(ErrorKind::Unavailable, "the receiver has stopped"))
        })
    }

    /// Makes the other end fail, so that what it has received is not taken for the whole.
    pub fn abort(&self, runtime: &Runtime, host: &Host, error: Error) {
        let _ = runtime.block_on(host, async {
            let _ = self.0.send(Err(error)).await;
            Ok(())
        });
    }
}

/// The async end of [`chunks`].
pub struct ChunkReceiver(mpsc::Receiver<Result<Vec<u8>>>);

impl ChunkReceiver {
    /// Returns the next chunk, `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Vec<u8>>> {
        self.0.recv().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use super::*;
    use crate::{HostServices, LogLevel};

    struct Cancels(Arc<AtomicBool>);
    impl HostServices for Cancels {
        fn is_cancelled(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
        fn log(&self, _: LogLevel, _: &str) {}
    }

    #[test]
    fn a_future_that_never_ends_stops_when_the_host_cancels() {
        let flag = Arc::new(AtomicBool::new(false));
        let host = Host::new(Cancels(flag.clone()));
        let runtime = Runtime::new("test").unwrap();
        let started = Instant::now();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            flag.store(true, Ordering::Relaxed);
        });
        let error = runtime.block_on(&host, std::future::pending::<Result<()>>()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(started.elapsed() < Duration::from_secs(5), "it noticed in time");
    }

    #[test]
    fn a_future_may_hold_the_runtime_that_it_runs_on() {
        let runtime = Runtime::new("test").unwrap();
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let (done, is_done) = std::sync::mpsc::channel();
        let held = runtime.clone();
        runtime.spawn(async move {
            let _ = released.await;
            let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(held)));
            let _ = done.send(dropped.is_ok());
        });
        drop(runtime);
        release.send(()).unwrap();
        assert!(is_done.recv().unwrap(), "dropping it does not panic");
    }

    #[test]
    fn a_reader_gives_all_chunks_whatever_the_size_of_the_buffer() {
        let runtime = Runtime::new("test").unwrap();
        let mut left = vec![vec![1u8; 5], vec![], vec![2; 1], vec![3; 9]];
        let mut reader = runtime.reader(&Host::silent(), move || {
            let next = (!left.is_empty()).then(|| left.remove(0));
            Box::pin(async move { Ok(next) })
        });
        let mut all = Vec::new();
        let mut buffer = [0; 4];
        loop {
            let count = reader.read(&mut buffer).unwrap();
            if count == 0 {
                break;
            }
            all.extend_from_slice(&buffer[..count]);
        }
        assert_eq!(all, [vec![1; 5], vec![2; 1], vec![3; 9]].concat());
    }
}
