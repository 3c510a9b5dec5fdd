//! The wire types, generated from the `.proto` files beside this one. They stop at `cmd`, `notify` and `hooks`.

pub mod json_bytes;
pub mod pair;
pub mod unix;

/// `kubevirt.cmd.info`: version negotiation of the command service.
#[allow(clippy::all, clippy::too_many_lines, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod cmd_info {
    tonic::include_proto!("kubevirt.cmd.info");
}

/// `kubevirt.cmd.v1`: the command service.
#[allow(clippy::all, clippy::too_many_lines, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod cmd_v1 {
    tonic::include_proto!("kubevirt.cmd.v1");
}

/// `kubevirt.nbd`: what is served of a backup to who fetches it from outside.
#[allow(clippy::all, clippy::too_many_lines, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod nbd {
    tonic::include_proto!("kubevirt.nbd");
}

/// `kubevirt.notify.info`: version negotiation of the notify service.
#[allow(clippy::all, clippy::too_many_lines, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod notify_info {
    tonic::include_proto!("kubevirt.notify.info");
}

/// `kubevirt.notify.v1`: notifications to virt-handler.
#[allow(clippy::all, clippy::too_many_lines, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod notify_v1 {
    tonic::include_proto!("kubevirt.notify.v1");
}

/// `kubevirt.hooks.info`: what a hook sidecar is called for.
#[allow(clippy::all, clippy::too_many_lines, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod hooks_info {
    tonic::include_proto!("kubevirt.hooks.info");
}

/// `kubevirt.hooks.v1alpha1`: the first callback of hook sidecars.
#[allow(clippy::all, clippy::too_many_lines, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod hooks_v1alpha1 {
    tonic::include_proto!("kubevirt.hooks.v1alpha1");
}

/// `kubevirt.hooks.v1alpha2`: two callbacks.
#[allow(clippy::all, clippy::too_many_lines, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod hooks_v1alpha2 {
    tonic::include_proto!("kubevirt.hooks.v1alpha2");
}

/// `kubevirt.hooks.v1alpha3`: three callbacks.
#[allow(clippy::all, clippy::too_many_lines, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod hooks_v1alpha3 {
    tonic::include_proto!("kubevirt.hooks.v1alpha3");
}

/// `kubevirt.hooks.plugins.v1alpha1`: sidecars of plugins.
#[allow(clippy::all, clippy::too_many_lines, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod plugins_v1alpha1 {
    tonic::include_proto!("kubevirt.hooks.plugins.v1alpha1");
}
