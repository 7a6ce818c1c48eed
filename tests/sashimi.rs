//! Autoregressive audio networks: sizes, causality, and the recurrence against the convolution.

#![allow(clippy::unwrap_used)] // unwrap: a failing test is to panic

use genlib::math::rng::SplitMix64;
use genlib::net::causal::{Causal, Steps};
use genlib::net::layers::ssm::{Discretisation, S4Config, SsmMode};
use genlib::net::sashimi::{NormKind, OutputAct, Sashimi, SashimiConfig, Wiring};
use genlib::net::store::Store;
use genlib::net::{Cond, Mode, Network};
use genlib::optim::OptimSpec;
use genlib::optim::spec::OptimType;
use genlib::torch::shim::Generator;
use tch::{Device, Kind, Tensor};

fn build(config: &SashimiConfig, kind: Kind, classes: i64) -> (Store, Sashimi) {
    let store = Store::new(Device::Cpu, kind, 4);
    let net = Sashimi::new(&store.root(), config, &[1, 64], classes).unwrap();
    (store, net)
}

fn tokens(seed: u64, batch: i64, len: i64) -> Tensor {
    Generator::new(seed).unwrap().integers(256, &[batch, len]).unwrap()
}

fn gap(a: &Tensor, b: &Tensor) -> f64 {
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

fn small(wiring: Wiring, n_layers: i64) -> SashimiConfig {
    SashimiConfig {
        d_model: 12,
        n_layers,
        wiring,
        layer: S4Config { d_state: 16, ..S4Config::default() },
        ..SashimiConfig::default()
    }
}

#[test]
fn parameter_counts_are_the_published_ones() {
    let count = |wiring, norm, act, n_layers, n_ssm| {
        let config = SashimiConfig {
            wiring,
            norm,
            act,
            n_layers,
            layer: S4Config { n_ssm, ..S4Config::default() },
            ..SashimiConfig::default()
        };
        let store = Store::empty(Device::Cpu, Kind::Float);
        let _net = Sashimi::new(&store.root(), &config, &[1, 16_000], 0).unwrap();
        store.parameters()
    };
    use NormKind::{Layer, Scalar};
    use OutputAct::{Glu, Id};
    use Wiring::{Standard, Unet};
    for (want, wiring, norm, act, n_layers, n_ssm) in [
        (4_751_072, Standard, Scalar, Glu, 8, 1),
        (4_059_360, Standard, Scalar, Id, 8, 1),
        (1_287_192, Standard, Scalar, Id, 2, 1),
        (5_434_592, Standard, Scalar, Glu, 8, 0),
        (6_820_512, Unet, Scalar, Glu, 8, 0),
        (5_845_152, Unet, Scalar, Glu, 8, 1),
        (4_764_160, Standard, Layer, Glu, 8, 1),
        (5_447_680, Standard, Layer, Glu, 8, 0),
        (6_840_832, Unet, Layer, Glu, 8, 0),
        (5_865_472, Unet, Layer, Glu, 8, 1),
        (4_072_448, Standard, Layer, Id, 8, 1),
        (1_289_600, Standard, Layer, Id, 2, 1),
    ] {
        assert_eq!(count(wiring, norm, act, n_layers, n_ssm), want, "{wiring:?} {norm:?} {act:?} {n_layers}");
    }
    assert_eq!(SashimiConfig::unet().layer.n_ssm, 0);
}

/// Logits of all steps of a recurrence, `[B, L, V]`.
fn stepped(steps: &mut dyn Steps, tokens: &Tensor) -> Tensor {
    let each: Vec<Tensor> =
        (0..tokens.size()[1]).map(|t| steps.step(&tokens.select(1, t)).unwrap()).collect();
    Tensor::stack(&each, 1)
}

fn forward(net: &Sashimi, tokens: &Tensor) -> Tensor {
    tch::no_grad(|| net.logits(tokens, &Cond::default(), Mode::Eval).unwrap())
}

fn recurrences<'a>(net: &'a Sashimi, batch: i64, cond: &Cond) -> [(&'static str, Box<dyn Steps + 'a>); 2] {
    [
        ("packed", net.begin(batch, cond).unwrap()),
        ("operations", net.begin_by_operations(batch, cond).unwrap()),
    ]
}

/// One step of Adam on the cross entropy.
fn train(store: &Store, net: &Sashimi) {
    let spec = OptimSpec { kind: OptimType::Adamw, lr: 1e-2, ..OptimSpec::default() };
    let mut optim = spec.build_grouped(store.trainable(), &store.groups()).unwrap();
    let (input, target) = (tokens(8, 2, 64), tokens(9, 2, 64));
    let logits = net.logits(&input, &Cond::default(), Mode::Train).unwrap();
    logits.flatten(0, 1).cross_entropy_for_logits(&target.flatten(0, 1)).backward();
    for (name, p) in store.trainable() {
        assert!(p.grad().defined() && p.grad().isfinite().all().int64_value(&[]) == 1, "{name}");
    }
    optim.step(1e-2, None).unwrap();
    optim.zero_grad().unwrap();
}

fn agree(config: &SashimiConfig, kind: Kind, limit: f64, len: i64) {
    let (store, net) = build(config, kind, 0);
    let x = tokens(1, 3, len);
    for round in 0..2 {
        let want = forward(&net, &x);
        for (name, mut steps) in recurrences(&net, 3, &Cond::default()) {
            let got = stepped(steps.as_mut(), &x);
            assert!(gap(&got, &want) < limit, "{name} {kind:?} {round} {config:?}: {}", gap(&got, &want));
        }
        for (name, mut steps) in recurrences(&net, 3, &Cond::default()) {
            let first = steps.prefill(&x.narrow(1, 0, 43)).unwrap();
            let middle = stepped(steps.as_mut(), &x.narrow(1, 43, 7));
            let last = steps.prefill(&x.narrow(1, 50, len - 50)).unwrap();
            let got = Tensor::cat(&[first, middle, last], 1);
            assert!(gap(&got, &want) < limit, "prefill {name} {kind:?} {round}: {}", gap(&got, &want));
        }
        train(&store, &net);
    }
}

#[test]
fn steps_are_the_forward_pass_in_f64() {
    for wiring in [Wiring::Standard, Wiring::Unet] {
        for n_layers in 1..=3 {
            agree(&small(wiring, n_layers), Kind::Double, 1e-8, 128);
        }
    }
    // Longer, at the usual order of the state.
    let long = SashimiConfig { layer: S4Config::default(), ..small(Wiring::Unet, 1) };
    agree(&long, Kind::Double, 1e-8, 256);
}

#[test]
fn steps_are_the_forward_pass_in_f32() {
    for wiring in [Wiring::Standard, Wiring::Unet] {
        agree(&small(wiring, 2), Kind::Float, 1e-3, 256);
    }
}

#[test]
fn steps_are_the_forward_pass_for_every_sort_of_layer() {
    let base = small(Wiring::Unet, 1);
    let with = |layer: S4Config| SashimiConfig { layer: S4Config { d_state: 16, ..layer }, ..base.clone() };
    let s4d = S4Config { mode: SsmMode::S4d, init: "lin".to_owned(), n_ssm: 0, ..S4Config::default() };
    for config in [
        SashimiConfig { norm: NormKind::Layer, act: OutputAct::Id, ..base.clone() },
        SashimiConfig {
            d_model: 16,
            pool: vec![2, 3],
            expand: 1,
            ff: 3,
            bits: 5,
            ..small(Wiring::Standard, 1)
        },
        SashimiConfig { pool: vec![], ..base.clone() },
        with(s4d.clone()),
        with(S4Config { disc: Some(Discretisation::Bilinear), ..s4d }),
        with(S4Config { init: "legt".to_owned(), rank: 2, ..S4Config::default() }),
        with(S4Config { disc: Some(Discretisation::Zoh), ..S4Config::default() }),
    ] {
        let (_store, net) = build(&config, Kind::Double, 0);
        let len = 8 * net.stride();
        let x = tokens(1, 5, len).remainder(net.vocab());
        let want = forward(&net, &x);
        for (name, mut steps) in recurrences(&net, 5, &Cond::default()) {
            let got = stepped(steps.as_mut(), &x);
            assert!(gap(&got, &want) < 1e-8, "{name} {config:?}: {}", gap(&got, &want));
        }
    }
}

#[test]
fn classes_reach_every_position_of_both_modes() {
    let (_store, net) = build(&small(Wiring::Standard, 1), Kind::Double, 4);
    let x = tokens(1, 3, 32);
    let cond = Cond { class: Some(Tensor::from_slice(&[2i64, -1, 0])), ..Cond::default() };
    let _guard = tch::no_grad_guard();
    let want = net.logits(&x, &cond, Mode::Eval).unwrap();
    let none = forward(&net, &x);
    assert!(gap(&want.select(0, 1), &none.select(0, 1)) < 1e-12);
    assert!(gap(&want.select(0, 0).select(0, 0), &none.select(0, 0).select(0, 0)) > 1e-3);
    for (name, mut steps) in recurrences(&net, 3, &cond) {
        assert!(gap(&steps.prefill(&x.narrow(1, 0, 16)).unwrap(), &want.narrow(1, 0, 16)) < 1e-8, "{name}");
        let got = stepped(steps.as_mut(), &x.narrow(1, 16, 16));
        assert!(gap(&got, &want.narrow(1, 16, 16)) < 1e-8, "{name}");
    }
    let unknown = Cond { class: Some(Tensor::from_slice(&[9i64, 9, 9])), ..Cond::default() };
    assert!(net.begin(3, &unknown).is_err());
}

#[test]
fn no_output_knows_a_later_input() {
    for wiring in [Wiring::Standard, Wiring::Unet] {
        // Another token is another random row; one number added to all features would be invisible to the norms.
        let (_store, net) = build(&small(wiring, 2), Kind::Double, 0);
        let x = tokens(3, 1, 160);
        for at in [0, 15, 16, 79, 80, 100] {
            let before = forward(&net, &x);
            let changed = x.copy();
            let _ = changed.narrow(1, at, 1).fill_((x.int64_value(&[0, at]) + 101) % 256);
            let diff = (forward(&net, &changed) - before).abs().amax([0, 2], false);
            if at > 0 {
                let early = diff.narrow(0, 0, at).max().double_value(&[]);
                assert!(early < 1e-10, "{wiring:?} {at}: {early}");
            }
            assert!(diff.double_value(&[at]) > 1e-6, "{wiring:?} {at}");
        }
    }
}

#[test]
fn a_silent_head_costs_as_many_bits_as_a_sample_has() {
    let (store, net) = build(&small(Wiring::Standard, 1), Kind::Float, 0);
    tch::no_grad(|| {
        for part in ["weight", "bias"] {
            let _ = store.get(&format!("decoder.0.output_transform.{part}")).unwrap().zero_();
        }
    });
    let x = tokens(1, 2, 64);
    let log_p = forward(&net, &x).to_kind(Kind::Double).log_softmax(-1, Kind::Double);
    let loss = -log_p.gather(-1, &x.unsqueeze(-1), false).mean(Kind::Double);
    assert!((loss.double_value(&[]) / std::f64::consts::LN_2 - 8.0).abs() < 1e-12);
}

#[test]
fn state_space_parameters_have_rates_of_their_own() {
    let (store, _net) = build(&small(Wiring::Unet, 1), Kind::Double, 0);
    let spec = OptimSpec { kind: OptimType::Adamw, lr: 4e-3, weight_decay: 0.1, ..OptimSpec::default() };
    let mut optim = spec.build_grouped(store.trainable(), &store.groups()).unwrap();
    let before: Vec<Tensor> = store.trainable().iter().map(|(_, p)| p.detach().copy()).collect();
    // Zero gradients: only decay moves anything. Half the learning rate, as a schedule would have it.
    store.trainable().iter().map(|(_, p)| (p * 0.0).sum(Kind::Double)).sum::<Tensor>().backward();
    optim.step(2e-3, None).unwrap();
    let mut kinds = [0, 0, 0];
    for (((name, p), before), group) in store.trainable().iter().zip(&before).zip(store.groups()) {
        let own = ["inv_dt", "A_real", "A_imag", ".B", ".P"].iter().any(|end| name.ends_with(end));
        let (lr, decay) = group.rates(2e-3, spec.lr, spec.weight_decay);
        let undecayed = own
            || name.contains("norm.norm")
            || name.ends_with("bias") && (name.contains(".ff.") || name.contains(".linear."));
        if own {
            assert_eq!((lr, decay), (0.5e-3, 0.0), "{name}");
            kinds[0] += 1;
        } else {
            kinds[1 + usize::from(undecayed)] += 1;
            assert_eq!((lr, decay), (2e-3, if undecayed { 0.0 } else { 0.1 }), "{name}");
        }
        let factor = if undecayed { 1.0 } else { 1.0 - 2e-3 * 0.1 };
        assert!(gap(p, &(before * factor)) < 1e-15, "{name}");
        if name.ends_with(".C") || name.ends_with(".D") || name.ends_with("output_linear.0.bias") {
            assert!(!undecayed, "{name}");
        }
    }
    assert!(kinds.iter().all(|&n| n > 0), "{kinds:?}");
}

#[test]
fn wrong_input_is_refused_in_words() {
    let (_store, net) = build(&small(Wiring::Standard, 1), Kind::Float, 0);
    let error = |x: Tensor| net.logits(&x, &Cond::default(), Mode::Eval).unwrap_err().to_string();
    assert!(error(tokens(1, 2, 17)).contains("17 is no multiple of 16"));
    assert!(error(tokens(1, 2, 16).to_kind(Kind::Float)).contains("dtype"));
    let mut steps = net.begin(2, &Cond::default()).unwrap();
    assert!(steps.step(&Tensor::from_slice(&[1i64])).is_err());
    assert!(steps.step(&Tensor::from_slice(&[1i64, 256])).unwrap_err().to_string().contains("256"));
    assert!(net.begin(0, &Cond::default()).is_err());
    let store = Store::empty(Device::Cpu, Kind::Float);
    for bad in [
        SashimiConfig { bits: 40, ..SashimiConfig::default() },
        SashimiConfig { pool: vec![1], ..SashimiConfig::default() },
        SashimiConfig {
            layer: S4Config { bidirectional: true, ..S4Config::default() },
            ..SashimiConfig::default()
        },
    ] {
        assert!(Sashimi::new(&store.root(), &bad, &[1, 16], 0).is_err());
    }
    assert!(Sashimi::new(&store.root(), &SashimiConfig::default(), &[3, 32, 32], 0).is_err());
}

#[test]
fn a_batch_of_any_size_gives_what_single_sequences_give() {
    let (_store, net) = build(&small(Wiring::Unet, 1), Kind::Float, 0);
    let x = tokens(5, 19, 48);
    let mut together = net.begin(19, &Cond::default()).unwrap();
    let want = stepped(together.as_mut(), &x);
    let mut random = SplitMix64::new(1);
    for _ in 0..3 {
        let at = random.below(19) as i64;
        let mut alone = net.begin(1, &Cond::default()).unwrap();
        let got = stepped(alone.as_mut(), &x.narrow(0, at, 1));
        assert!(gap(&got, &want.narrow(0, at, 1)) < 1e-4);
    }
    assert_eq!(net.causal().map(|c| (c.vocab(), c.start_token(), c.stride())), Some((256, 128, 16)));
}
