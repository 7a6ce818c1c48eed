//! Compiles the C++ shim against the libtorch that `torch-sys` found, and makes the binary find that
//! libtorch at run time.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=src/torch/shim");
    let lib = PathBuf::from(
        std::env::var_os("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names libtorch's lib folder"),
    );
    // A relative LIBTORCH is relative to the checkout, where cargo sets it.
    let lib = lib.canonicalize().unwrap_or(lib);
    let root = lib.parent().unwrap_or(Path::new("/"));

    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .include(root.join("include"))
        .include(root.join("include/torch/csrc/api/include"))
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .flag("-w");
    build
        .clone()
        .opt_level(1)
        .file("src/torch/shim/shim.cpp")
        .file("src/torch/shim/module.cpp")
        .file("src/torch/shim/conv.cpp")
        .compile("gen_shim");
    // The kernels run on libtorch's own threads, which are those of OpenMP.
    let x86 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    build.opt_level(2).flag("-fopenmp").file("src/torch/shim/norm.cpp");
    build.file("src/torch/shim/rows.cpp").file("src/torch/shim/step.cpp");
    if x86 {
        build.define("GEN_STEP_X86", None);
    }
    build.compile("gen_kernels");
    step(x86);
    println!("cargo:rustc-link-arg=-lgomp");
    empty_libtorch();

    // Installed beside its libraries, or in the developer's checkout.
    for place in ["$ORIGIN/../lib", "$ORIGIN/../lib/gen", "$ORIGIN/lib"] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{place}");
    }
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:rustc-env=GEN_BUILD_LIBTORCH={}", lib.display());
    let commit = std::process::Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit = commit.ok().filter(|o| o.status.success()).and_then(|o| String::from_utf8(o.stdout).ok());
    println!("cargo:rustc-env=GEN_COMMIT={}", commit.as_deref().map_or("unknown", str::trim));
    println!("cargo:rerun-if-changed=.git/logs/HEAD");
}

/// The steps of recurrences, once for each instruction set: chosen when the program runs.
fn step(x86: bool) {
    let variants: &[(&str, &[&str])] = if x86 {
        &[
            ("gen_step_v4", &["-march=x86-64-v4", "-mprefer-vector-width=512"]),
            ("gen_step_v3", &["-march=x86-64-v3"]),
            ("gen_step_base", &[]),
        ]
    } else {
        &[("gen_step_base", &[])]
    };
    for (name, flags) in variants {
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").opt_level(3).define("GEN_STEP", *name).flag("-w");
        build.flag("-fopenmp-simd").flag("-ffp-contract=fast").flag("-fno-math-errno");
        flags.iter().for_each(|flag| {
            build.flag(*flag);
        });
        build.file("src/torch/shim/step_kernel.cpp").compile(name);
    }
}

/// An empty library named `libtorch.so`, kept in the binary for compiled packages (src/torch/umbrella.rs).
fn empty_libtorch() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo names the output folder"));
    let source = out.join("empty.c");
    std::fs::write(&source, "").expect("the output folder can be written");
    let status = cc::Build::new()
        .get_compiler()
        .to_command()
        .args(["-shared", "-nostdlib", "-s", "-Wl,-soname,libtorch.so", "-o"])
        .arg(out.join("libtorch.so"))
        .arg(&source)
        .status();
    assert!(status.is_ok_and(|s| s.success()), "the C compiler cannot make an empty shared library");
}
