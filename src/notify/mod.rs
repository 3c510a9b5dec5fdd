//! What virt-handler is told: an outbox that keeps the latest state until it is acknowledged.
