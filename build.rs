//! Compiles the protocol descriptions of `src/proto`; generated code stays in `OUT_DIR`.
//!
//! Every message can also be written and read as JSON with the field names of its `.proto` file: that is how a person
//! sees replies (`virt-launcher ctl -o json`) and hands in options, and how recordings of the protocol are kept.

use std::error::Error;

const PROTOS: &[&str] = &[
    "src/proto/cmd_info.proto",
    "src/proto/cmd_v1.proto",
    "src/proto/hooks_info.proto",
    "src/proto/hooks_v1alpha1.proto",
    "src/proto/hooks_v1alpha2.proto",
    "src/proto/hooks_v1alpha3.proto",
    "src/proto/nbd.proto",
    "src/proto/notify_info.proto",
    "src/proto/notify_v1.proto",
    "src/proto/plugins_v1alpha1.proto",
];

/// `google.protobuf.FieldDescriptorProto.Type.TYPE_BYTES`.
const TYPE_BYTES: i32 = 12;

fn main() -> Result<(), Box<dyn Error>> {
    for proto in PROTOS {
        println!("cargo:rerun-if-changed={proto}");
    }
    let descriptors = protox::compile(PROTOS, ["src/proto"])?;
    let mut builder = tonic_prost_build::configure()
        .message_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)]")
        .message_attribute(".", "#[serde(default, deny_unknown_fields)]");
    for file in &descriptors.file {
        for message in &file.message_type {
            for field in &message.field {
                let path = format!(".{}.{}.{}", file.package(), message.name(), field.name());
                builder = builder.field_attribute(&path, format!("#[serde(rename = \"{}\")]", field.name()));
                if field.r#type == Some(TYPE_BYTES) {
                    builder = builder.field_attribute(&path, "#[serde(with = \"crate::proto::json_bytes\")]");
                }
            }
        }
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
