//! The threads that compress: as many as there are cores, started when first needed.

use std::sync::{Mutex, OnceLock, mpsc};

type Job = Box<dyn FnOnce() + Send>;

/// Returns how many threads compress.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Runs a job on one of the threads. Jobs are short: one block each.
pub fn run(job: impl FnOnce() + Send + 'static) {
    static QUEUE: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let queue = QUEUE.get_or_init(start);
    queue.send(Box::new(job)).expect("the threads run as long as the process");
}

fn start() -> mpsc::Sender<Job> {
    let (sender, receiver) = mpsc::channel::<Job>();
    let receiver: &'static Mutex<mpsc::Receiver<Job>> = Box::leak(Box::new(Mutex::new(receiver)));
    for _ in 0..threads() {
        std::thread::spawn(move || {
            loop {
                let job = receiver.lock().expect("no thread panics while it takes a job").recv();
                match job {
                    Ok(job) => job(),
                    Err(_) => return,
                }
            }
        });
    }
    sender
}
