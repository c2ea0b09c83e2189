//! Compiles the CUDA kernels to PTX, when the feature `cuda` asks for them.

#[cfg(feature = "cuda")]
fn main() -> cudaforge::Result<()> {
    const KERNELS: &str = "src/model/ops/gpu/kernels";
    println!("cargo::rerun-if-changed={KERNELS}");
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    cudaforge::KernelBuilder::new()
        .source_files([format!("{KERNELS}/all.cu")])
        .arg("-std=c++17")
        .arg("-O3")
        // It would compare all.cu alone, and keep old kernels when an included file changes;
        // Cargo knows when to come here.
        .no_incremental()
        .build_ptx()?
        .write(out.join("ptx.rs"))
}

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
