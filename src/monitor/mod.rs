//! PID 1: starts the launcher, reaps everything, outlives it.
