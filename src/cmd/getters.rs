//! Calls that read what the launcher has published (contract/cmd-server.md 4.2).

use super::failure::response;
use super::{Driver, Failure};
use crate::proto::cmd_v1::{
    DomainResponse, GuestFilesystemsResponse, GuestInfoResponse, GuestUserListResponse, QemuVersionResponse, Response,
};

/// `GetDomain`: no domain is a success with an empty document.
pub(super) fn domain(driver: &dyn Driver) -> DomainResponse {
    match driver.domain() {
        Ok(domain) => DomainResponse {
            response: Some(response(Ok(()))),
            domain: domain.map(|json| json.to_string()).unwrap_or_default(),
        },
        Err(failure) => DomainResponse { response: Some(response(Err(failure))), domain: String::new() },
    }
}

/// `GetQemuVersion`.
pub(super) fn qemu_version(driver: &dyn Driver) -> QemuVersionResponse {
    match driver.hypervisor_version() {
        Ok(version) => QemuVersionResponse { response: Some(response(Ok(()))), version },
        Err(failure) => QemuVersionResponse { response: Some(response(Err(failure))), version: String::new() },
    }
}

/// `GetGuestInfo`.
pub(super) fn guest_info(driver: &dyn Driver) -> GuestInfoResponse {
    let (response, guest_info_response) = document(driver.guest_info());
    GuestInfoResponse { response, guest_info_response }
}

/// `GetUsers`.
pub(super) fn users(driver: &dyn Driver) -> GuestUserListResponse {
    let (response, guest_user_list_response) = document(driver.users());
    GuestUserListResponse { response, guest_user_list_response }
}

/// `GetFilesystems`.
pub(super) fn filesystems(driver: &dyn Driver) -> GuestFilesystemsResponse {
    let (response, guest_filesystems_response) = document(driver.filesystems());
    GuestFilesystemsResponse { response, guest_filesystems_response }
}

/// A reply and its document, which is empty if there is none.
fn document(document: Result<String, Failure>) -> (Option<Response>, String) {
    match document {
        Ok(document) => (Some(response(Ok(()))), document),
        Err(failure) => (Some(response(Err(failure))), String::new()),
    }
}
