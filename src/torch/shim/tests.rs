//! The shim against plain operations.

use super::*;
use tch::Device;

fn values(t: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(&t.to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

#[test]
fn a_generator_draws_the_numbers_of_pytorch() {
    // torch.randn(8, generator=torch.Generator().manual_seed(1))
    let got = values(&Generator::new(1).unwrap().normal(&[8], Kind::Float).unwrap());
    for (got, want) in got.iter().zip([0.66135216, 0.2669241, 0.06167726, 0.6213173]) {
        assert!((got - want).abs() < 1e-7, "{got} {want}");
    }
}

#[test]
fn streams_do_not_touch_each_other() {
    let mut a = Generator::new(7).unwrap();
    let first = values(&a.normal(&[4], Kind::Float).unwrap());
    let mut b = Generator::new(7).unwrap();
    assert_eq!(first, values(&b.normal(&[4], Kind::Float).unwrap()));
    assert_ne!(first, values(&a.normal(&[4], Kind::Float).unwrap()));
}

#[test]
fn the_fused_adamw_step_is_the_formula() {
    let scalar = |x: f64| Tensor::from_slice(&[x]).to_kind(Kind::Double);
    let (p, m, v) = (scalar(1.0), scalar(0.0), scalar(0.0));
    let steps = [Tensor::from(1f32)];
    let step = AdamStep { decoupled: true, lr: 1e-3, betas: (0.9, 0.999), weight_decay: 0.01, eps: 1e-8 };
    let lists = AdamTensors {
        params: std::slice::from_ref(&p),
        grads: &[scalar(0.5)],
        m: std::slice::from_ref(&m),
        v: std::slice::from_ref(&v),
        steps: &steps,
    };
    fused_adam(&step, &lists, None, None).unwrap();
    assert!((values(&p)[0] - 0.99899).abs() < 1e-9);
    assert!((values(&m)[0] - 0.05).abs() < 1e-12);
    assert!((values(&v)[0] - 2.5e-4).abs() < 1e-12);
}

#[test]
fn autocast_on_the_cpu_computes_in_bf16_and_ends_with_its_guard() {
    let a = Tensor::ones([4, 4], (Kind::Float, Device::Cpu));
    {
        let _guard = Autocast::to(Kind::BFloat16, false).unwrap();
        assert_eq!(a.matmul(&a).kind(), Kind::BFloat16);
    }
    assert_eq!(a.matmul(&a).kind(), Kind::Float);
}

#[test]
fn dropped_gradients_start_anew() {
    let p = Tensor::from_slice(&[2f64]).set_requires_grad(true);
    for _ in 0..2 {
        (&p * &p).sum(Kind::Double).backward();
        assert_eq!(values(&p.grad()), [4.0]);
        drop_grads(&[p.shallow_clone()]).unwrap();
        assert!(!p.grad().defined());
    }
}

#[test]
fn the_norm_of_lists_is_that_of_one_vector() {
    let t = [Tensor::from_slice(&[3f32]), Tensor::from_slice(&[0f32, 4.0])];
    assert!((values(&foreach_norm(&t).unwrap())[0] - 5.0).abs() < 1e-6);
    foreach_mul(&t, &Tensor::from(0.5f32)).unwrap();
    assert!((values(&foreach_norm(&t).unwrap())[0] - 2.5).abs() < 1e-6);
    assert!(foreach_lerp(&t, &t[..1], 0.5).is_err());
}
