//! Embeds the kernel side where it has been built: the object that `PORTCULLIS_EBPF_OBJECT` names, or else what
//! `cargo xtask ebpf` left in the target directory. Without it, a gateway for release is only built when that is asked for,
//! by the variable with nothing in it; one for development is built anyway. Either says so in `--version`, status
//! and metrics.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

const VARIABLE: &str = "PORTCULLIS_EBPF_OBJECT";
/// Below the target directory; `cargo xtask ebpf` writes there.
const BUILT: &str = "ebpf";
const OBJECT: &str = "portcullis-ebpf.o";
const ABSENT: &str = "the kernel side has not been built, so that this gateway cannot filter packets: `cargo xtask ebpf` builds \
                      it, and PORTCULLIS_EBPF_OBJECT= (nothing) asks for a gateway without it";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rustc-check-cfg=cfg(kernel_side)");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let object = match env::var_os(VARIABLE) {
        Some(named) if named.is_empty() => None,
        Some(named) => Some(PathBuf::from(named)),
        None => match built(&out)? {
            None if env::var("PROFILE").as_deref() == Ok("release") => return Err(ABSENT.into()),
            found => found,
        },
    };
    if let Some(object) = object {
        println!("cargo::rerun-if-changed={}", object.display());
        let copied = fs::copy(&object, out.join(OBJECT));
        copied.map_err(|error| format!("cannot embed the kernel side {}: {error}", object.display()))?;
        println!("cargo::rustc-cfg=kernel_side");
    }
    Ok(())
}

/// What `cargo xtask ebpf` has built, if it has.
fn built(out: &Path) -> Result<Option<PathBuf>, Box<dyn Error>> {
    // Cargo marks the directory that it builds in if it has made it; else that is four above: TARGET/PROFILE/build/PACKAGE/out.
    let marked = out.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file());
    let target = marked.or_else(|| out.ancestors().nth(4));
    let Some(directory) = target.map(|target| target.join(BUILT)) else { return Ok(None) };
    // A directory can be watched for the object's appearance; a file that is missing would run this every time.
    fs::create_dir_all(&directory)?;
    println!("cargo::rerun-if-changed={}", directory.display());
    Ok(Some(directory.join(OBJECT)).filter(|object| object.is_file()))
}
