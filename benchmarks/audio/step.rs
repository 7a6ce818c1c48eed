//! Times the 6.8 M U-Net SaShiMi: generated samples per second, and training steps per second.
//!
//!     cargo run --release --example audio_step -- step BATCH STEPS
//!     cargo run --release --example audio_step -- train BATCH STEPS [LENGTH]
//!
//! Prints one JSON object, in step mode also the microseconds of a step in the first and in the last tenth; `peer.py` takes the same arguments and does the same in eager PyTorch.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // unwrap: a benchmark that fails is to stop

use std::time::Instant;

use genlib::net::causal::Causal;
use genlib::net::sashimi::{Sashimi, SashimiConfig};
use genlib::net::store::Store;
use genlib::net::{Cond, Mode};
use genlib::optim::OptimSpec;
use genlib::torch::runtime::Runtime;
use genlib::torch::shim::Generator;
use tch::{Device, Kind, Tensor};

fn main() {
    // As many threads as PyTorch takes.
    let threads = std::env::var("OMP_NUM_THREADS").ok().map(|n| n.parse().unwrap());
    Runtime { threads, ..Runtime::default() }.start().unwrap();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, or: i64| arguments.get(i).map_or(or, |text| text.parse().unwrap());
    let (batch, steps) = (number(1, 1), number(2, 400).max(2));
    let store = Store::new(Device::Cpu, Kind::Float, 0);
    let net = Sashimi::new(&store.root(), &SashimiConfig::unet(), &[1, 16_000], 0).unwrap();
    let mode = arguments.first().map_or("step", String::as_str);
    let (seconds, tenths) = match mode {
        "train" => (train(&store, &net, batch, steps, number(3, 16_000)), [0.0; 2]),
        _ => step(&net, batch, steps, mode == "operations"),
    };
    let per_second = (if mode == "train" { steps } else { batch * steps }) as f64 / seconds;
    println!(
        "{{\"mode\": \"{mode}\", \"batch\": {batch}, \"steps\": {steps}, \"threads\": {}, \"parameters\": {}, \
         \"per_second\": {per_second:.4}, \"first_us\": {:.1}, \"last_us\": {:.1}}}",
        tch::get_num_threads(),
        store.parameters(),
        tenths[0],
        tenths[1]
    );
}

/// Seconds of `count` steps, and microseconds of a step in the first and the last tenth of them.
fn step(net: &Sashimi, batch: i64, count: i64, by_operations: bool) -> (f64, [f64; 2]) {
    let _guard = tch::no_grad_guard();
    let cond = Cond::default();
    let mut steps =
        if by_operations { net.begin_by_operations(batch, &cond) } else { net.begin(batch, &cond) }.unwrap();
    let mut tokens = Tensor::full([batch], 128, (Kind::Int64, Device::Cpu));
    let mut start = Instant::now();
    let tenth = (count / 10).max(1);
    let mut marks = Vec::new();
    for i in 0..count + 32 {
        if i == 32 {
            start = Instant::now();
        }
        if [32, 32 + tenth, 32 + count - tenth].contains(&i) {
            marks.push(start.elapsed().as_secs_f64());
        }
        tokens = steps.step(&tokens).unwrap().argmax(-1, false);
    }
    let seconds = start.elapsed().as_secs_f64();
    let part = |from: usize, to: f64| (to - marks[from]) * 1e6 / tenth as f64;
    (seconds, [part(0, marks[1]), part(marks.len() - 1, seconds)])
}

fn train(store: &Store, net: &Sashimi, batch: i64, count: i64, length: i64) -> f64 {
    let mut optim = OptimSpec::default().build_grouped(store.trainable(), &store.groups()).unwrap();
    let tokens = Generator::new(1).unwrap().integers(256, &[batch, length]).unwrap();
    let mut start = Instant::now();
    for i in 0..=count {
        if i == 1 {
            start = Instant::now();
        }
        optim.zero_grad().unwrap();
        let logits = net.logits(&tokens, &Cond::default(), Mode::Train).unwrap();
        logits.flatten(0, 1).cross_entropy_for_logits(&tokens.flatten(0, 1)).backward();
        optim.step(1e-4, None).unwrap();
    }
    start.elapsed().as_secs_f64()
}
