//! The numbers of the NBD protocol. All are big-endian on the wire.

/// `NBDMAGIC`, the first bytes of a server.
pub const SERVER: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`, before the server's flags and before each option.
pub const OPTION: u64 = 0x4948_4156_454f_5054;
/// Before each reply to an option.
pub const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// Before each request.
pub const REQUEST: u32 = 0x2560_9513;
/// Before a reply of one piece.
pub const SIMPLE_REPLY: u32 = 0x6744_6698;
/// Before each chunk of a structured reply.
pub const STRUCTURED_REPLY: u32 = 0x668e_33ef;

/// Handshake flag, both ends: options have replies.
pub const FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag, both ends: no padding after NBD_OPT_EXPORT_NAME.
pub const NO_ZEROES: u16 = 2;

/// `NBD_OPT_*`.
pub mod option {
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// `NBD_REP_*`; above [`option_reply::ERROR`] are errors.
pub mod option_reply {
    pub const ACK: u32 = 1;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERROR: u32 = 1 << 31;
}

/// `NBD_INFO_EXPORT`: size and flags.
pub const INFO_EXPORT: u16 = 0;

/// `NBD_CMD_*`.
pub mod command {
    pub const READ: u16 = 0;
    pub const DISCONNECT: u16 = 2;
    pub const BLOCK_STATUS: u16 = 7;
}

/// `NBD_REPLY_TYPE_*`; above [`chunk::ERROR`] are errors.
pub mod chunk {
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const ERROR: u16 = 1 << 15;
}

/// Flag of a structured reply's last chunk.
pub const DONE: u16 = 1;

/// A request without data.
pub fn request(command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let no_flags: u16 = 0;
    [
        &REQUEST.to_be_bytes()[..],
        &no_flags.to_be_bytes(),
        &command.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &length.to_be_bytes(),
    ]
    .concat()
}

/// An option with its data, which is short.
pub fn option_request(option: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    [&OPTION.to_be_bytes()[..], &option.to_be_bytes(), &length.to_be_bytes(), data].concat()
}

/// A string with its length before it.
pub fn string(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}
