//! Settings of sampling that cannot be combined: exit code 2.

use super::world::Transcript;

#[test]
fn solvers_and_grids() {
    let mut t = Transcript::new();
    for flags in [
        "--solver unipc --order 9",
        "--solver deis --order 4",
        "--solver ipndm --order 5",
        "--solver heun --order 3",
        "--solver deis --tableau rk4 --order 2",
        "--solver deis --variant tab --tableau rk4",
        "--solver dpm --threshold 0.995",
        "--solver dpm-adaptive --threshold 0.995",
        "--threshold 2",
        "--threshold-max -1",
        "--solver dpm++ --order 3 --steps 2",
        "--solver dpm --method multistep --order 3 --steps 2",
        "--solver unipc --order 3 --steps 2",
        "--solver unipc --method singlestep",
        "--solver unipc --solver-type heun",
        "--eta 0.5",
        "--solver ddim --eta 2",
        "--solver ddim --eta -1",
        "--solver dpm --s-churn 10",
        "--solver edm --s-churn -1",
        "--solver edm --s-min 2 --s-max 1",
        "--solver rk45 --rtol 0",
        "--solver rk45 --steps 5",
        "--solver rk45 --nfe 5",
        "--solver rk45 --grid karras",
        "--solver edm --rtol 1e-3",
        "--grid foo",
        "--grid 5,6",
        "--grid 1",
        "--grid '5,x,0'",
        "--grid karras=0",
        "--grid uniform=2",
        "--grid '5,1,0' --steps 7",
        "--rho -1",
        "--sigma-min 0",
        "--sigma-min -1",
        "--sigma-max 1e-9",
        "--t-min 1 --sigma-min 2",
        "--grid linspace",
    ] {
        t.fails(2, &format!("sample --model runs/plain --out x --seeds 0 {flags}"));
    }
    t.fails(2, "sample --model runs/vp --out x --seeds 0 --solver dpm --t-min 0");
    t.fails(2, "sample --model runs/vp --out x --seeds 0 --grid logsnr --t-min 0");
    t.fails(2, "sample --model runs/vp --out x --seeds 0 --t-max 2 --t-min 3");
    t.check("sample-settings");
}

#[test]
fn classes_and_guidance() {
    let mut t = Transcript::new();
    t.fails(2, "sample --model runs/plain --out x --class 3");
    t.fails(2, "sample --model runs/plain --out x --guidance 2");
    t.fails(2, "sample --model runs/classes --out x --class 12");
    t.fails(2, "sample --model runs/classes --out x --class -1");
    t.fails(2, "sample --model runs/classes --out x --class cat");
    t.fails(2, "sample --model runs/classes --out x --class 1,12");
    t.check("sample-classes");
}

#[test]
fn latents() {
    let mut t = Transcript::new();
    t.fails(3, "sample --model runs/plain --out x --init-noise absent.npz");
    t.fails(3, "sample --model runs/plain --out x --init-noise note.txt");
    t.fails(3, "sample --model runs/plain --out x --init-noise absent.safetensors");
    t.fails(3, "sample --model runs/plain --out x --seeds 0-3 --init-noise images/latents-of-3.npz");
    t.check("sample-latents");
}
