//! The wire types, generated from the `.proto` files beside this one. They stop at `cmd`, `notify` and `hooks`.

#![allow(missing_docs, clippy::all)]

pub mod json_bytes;
pub mod pair;
pub mod unix;

/// `kubevirt.cmd.info`: version negotiation of the command service.
pub mod cmd_info {
    tonic::include_proto!("kubevirt.cmd.info");
}

/// `kubevirt.cmd.v1`: the command service.
pub mod cmd_v1 {
    tonic::include_proto!("kubevirt.cmd.v1");
}

/// `kubevirt.nbd`: what is served of a backup to who fetches it from outside.
pub mod nbd {
    tonic::include_proto!("kubevirt.nbd");
}

/// `kubevirt.notify.info`: version negotiation of the notify service.
pub mod notify_info {
    tonic::include_proto!("kubevirt.notify.info");
}

/// `kubevirt.notify.v1`: notifications to virt-handler.
pub mod notify_v1 {
    tonic::include_proto!("kubevirt.notify.v1");
}

/// `kubevirt.hooks.info`: what a hook sidecar is called for.
pub mod hooks_info {
    tonic::include_proto!("kubevirt.hooks.info");
}

/// `kubevirt.hooks.v1alpha1`: the first callback of hook sidecars.
pub mod hooks_v1alpha1 {
    tonic::include_proto!("kubevirt.hooks.v1alpha1");
}

/// `kubevirt.hooks.v1alpha2`: two callbacks.
pub mod hooks_v1alpha2 {
    tonic::include_proto!("kubevirt.hooks.v1alpha2");
}

/// `kubevirt.hooks.v1alpha3`: three callbacks.
pub mod hooks_v1alpha3 {
    tonic::include_proto!("kubevirt.hooks.v1alpha3");
}

/// `kubevirt.hooks.plugins.v1alpha1`: sidecars of plugins.
pub mod plugins_v1alpha1 {
    tonic::include_proto!("kubevirt.hooks.plugins.v1alpha1");
}
