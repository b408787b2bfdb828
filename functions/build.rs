//! Links functions at fixed addresses. Position-independent, a function of this size begins its life with 65,000 relocations: three
//! megabytes touched and more than a millisecond lost before `main`.

fn main() {
    println!("cargo::rerun-if-changed=../../build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
