//! The libvirt domain document: types, XML out and in, the JSON form virt-handler reads.
