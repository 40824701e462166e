//! Lets the binary and the tests find the libpython they were linked with, without any environment variable.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
    // ELF: the folder of libpython3.x.so. Mach-O: the same for `@rpath/libpython3.x.dylib`, and for framework builds.
    pyo3_build_config::add_libpython_rpath_link_args();
    pyo3_build_config::add_python_framework_link_args();
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("macos") {
        // Some Python builds carry an install name that is no place on this machine; leave room to change it afterwards
        // (`install_name_tool -change`).
        println!("cargo:rustc-link-arg=-Wl,-headerpad_max_install_names");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
