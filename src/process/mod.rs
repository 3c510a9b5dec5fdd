//! Processes as the kernel shows them: search by command prefix, pidfd, wait status.
