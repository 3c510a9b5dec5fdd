//! Log lines in KubeVirt's JSON form (contract/lifecycle.md 5).
