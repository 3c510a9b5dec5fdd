//! The QEMU guest agent.
