//! Data that cannot be trained on: exit code 3.

use super::world::Transcript;

#[test]
fn data_that_cannot_be_used() {
    let mut t = Transcript::new();
    t.fails(2, "train tiny.toml --out runs/never");
    for data in [
        "absent",
        "absent/deeper",
        "empty",
        "note.txt",
        "images/bad",
        "images/mixed",
        "images/wide",
        "images/floats.npz",
        "images/five-channels.npz",
        "stats/other-keys.npz",
        "models/whole.safetensors",
    ] {
        t.fails(3, &format!("train tiny.toml --data {data} --out runs/never"));
    }
    t.fails(3, "train tiny.toml --data images/good --out runs/never --set data.classes=true");
    t.fails(3, "train tiny.toml --data images/real.npz --out runs/never --set data.resolution=16");
    t.fails(3, "train tiny.toml --data images/real.npz --out runs/never --set data.channels=1");
    t.check("data");
}
