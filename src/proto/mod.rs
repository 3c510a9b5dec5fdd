//! The wire types, generated from the `.proto` files beside this one. They stop at `cmd` and `notify`.

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

/// `kubevirt.notify.info`: version negotiation of the notify service.
pub mod notify_info {
    tonic::include_proto!("kubevirt.notify.info");
}

/// `kubevirt.notify.v1`: notifications to virt-handler.
pub mod notify_v1 {
    tonic::include_proto!("kubevirt.notify.v1");
}
