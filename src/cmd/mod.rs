//! The command service for virt-handler: gRPC in, one action out, replies back.
