//! Worker threads that decode ahead, in a fixed order.
//!
//! Job k goes to worker k mod W, each worker has a short queue of its own, and the consumer takes from the
//! queues in turn: the order of results depends on the plan alone, and at most `W (depth + 1)` jobs are held.
//! Workers make bytes only; tensors are made by the consumer, so that libtorch's threads are not doubled.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::{Dataset, Item};
use crate::error::{Error, Result};

/// The images of job `k`; nothing after the last job.
pub type Plan = dyn Fn(u64) -> Option<Vec<usize>> + Send + Sync;

/// Decoded images of consecutive jobs.
#[derive(Debug)]
pub struct Prefetch {
    queues: Vec<Receiver<Result<Vec<Item>>>>,
    workers: Vec<JoinHandle<()>>,
    next: usize,
    done: bool,
}

impl Prefetch {
    /// Starts `workers` threads on the jobs of `plan` from the first one on.
    ///
    /// # Errors
    /// Where a thread cannot be started.
    pub fn start(dataset: &Arc<dyn Dataset>, plan: &Arc<Plan>, workers: usize, depth: usize) -> Result<Self> {
        let workers = workers.max(1);
        let mut prefetch = Prefetch { queues: Vec::new(), workers: Vec::new(), next: 0, done: false };
        for w in 0..workers {
            let (send, receive) = sync_channel(depth.max(1));
            let (dataset, plan) = (Arc::clone(dataset), Arc::clone(plan));
            let thread = std::thread::Builder::new().name(format!("data-{w}"));
            let work = move || run(&*dataset, &*plan, w as u64, workers as u64, &send);
            let handle = thread
                .spawn(work)
                .map_err(|e| Error::run("cannot start a data thread").why(e.to_string()))?;
            prefetch.queues.push(receive);
            prefetch.workers.push(handle);
        }
        Ok(prefetch)
    }
}

fn run(dataset: &dyn Dataset, plan: &Plan, first: u64, step: u64, out: &SyncSender<Result<Vec<Item>>>) {
    let mut job = first;
    while let Some(indices) = plan(job) {
        let items: Result<Vec<Item>> = indices.into_iter().map(|i| dataset.get(i)).collect();
        let failed = items.is_err();
        // A closed queue means that nobody wants the rest.
        if out.send(items).is_err() || failed {
            return;
        }
        job += step;
    }
}

impl Iterator for Prefetch {
    type Item = Result<Vec<Item>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        // A worker hangs up after its last job, or after an error, which comes first.
        let got = self.queues[self.next].recv().ok();
        self.done = !matches!(got, Some(Ok(_)));
        self.next = (self.next + 1) % self.queues.len();
        got
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.queues.clear();
        for worker in self.workers.drain(..) {
            // A worker that panicked has nothing more to say.
            let _ = worker.join();
        }
    }
}
