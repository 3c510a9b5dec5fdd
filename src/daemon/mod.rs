//! The libvirt daemons: their files, arguments, restarts and logs.
