//! The only user of the `virt` crate: an asynchronous, deadlined façade.
