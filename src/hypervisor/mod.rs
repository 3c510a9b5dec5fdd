//! The seam: hypervisors as data, and the two traits the launcher knows them by.
