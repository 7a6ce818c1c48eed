//! Devices that are not there: exit code 5.

use super::world::{Transcript, world};

#[test]
fn cuda_without_a_gpu_says_which_part_is_missing() {
    // What is missing depends on the machine, so there is no snapshot.
    let device = |name: &str| {
        let mut command = Transcript::new().command("sample --model runs/plain --out x --seeds 0");
        let output = command.args(["--device", name]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = device("cuda:99");
    assert_eq!(code, Some(5), "{text}");
    let reasons = [
        ("no libtorch_cuda.so in ", "GEN_LIBTORCH"),
        ("libtorch_cuda.so does not load: ", "make setup CUDA=1"),
        ("no NVIDIA driver", "nvidia-smi"),
        ("the NVIDIA driver is there but offers no device", "nvidia-smi"),
        ("this machine has ", "gen doctor"),
    ];
    let said = reasons.iter().find(|(reason, _)| text.contains(reason));
    let (_, hint) = said.unwrap_or_else(|| panic!("{text}"));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("error: ") && lines[0].contains("(--device cuda:99)"), "{text}");
    assert!(lines[1].starts_with("hint: ") && lines[1].contains(hint), "{text}");
}

#[test]
fn a_libtorch_that_does_not_load_is_named() {
    // A folder given by hand comes first.
    let place = world().join("other-libtorch/lib");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("libtorch_cuda.so"), "no library").unwrap();
    let mut command = Transcript::new().command("doctor --json --device cuda");
    let output = command.env("GEN_LIBTORCH", world().join("other-libtorch")).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    if report["cuda"]["devices"].as_array().is_some_and(|devices| !devices.is_empty()) {
        return; // This machine's own library was taken, and there is a GPU.
    }
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(
        text.contains("other-libtorch/lib/libtorch_cuda.so does not load") || text.contains("driver"),
        "{text}"
    );
}
