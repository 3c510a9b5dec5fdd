//! Compiles the protocol descriptions of `src/proto`; generated code stays in `OUT_DIR`.

use std::error::Error;

const PROTOS: &[&str] =
    &["src/proto/cmd_info.proto", "src/proto/cmd_v1.proto", "src/proto/notify_info.proto", "src/proto/notify_v1.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for proto in PROTOS {
        println!("cargo:rerun-if-changed={proto}");
    }
    let descriptors = protox::compile(PROTOS, ["src/proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
