//! The client against a server that says what a test wants.

use tokio::io::{AsyncReadExt, DuplexStream, duplex};

use super::wire::{chunk, option, option_reply};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// What a server sends during a negotiation that succeeds.
fn negotiation(size: u64, contexts: &[(u32, &str)]) -> Vec<u8> {
    let mut said = [&wire::SERVER.to_be_bytes()[..], &wire::OPTION.to_be_bytes(), &3u16.to_be_bytes()].concat();
    said.extend(reply(option::STRUCTURED_REPLY, option_reply::ACK, &[]));
    if !contexts.is_empty() {
        for (id, name) in contexts {
            let data = [&id.to_be_bytes()[..], name.as_bytes()].concat();
            said.extend(reply(option::SET_META_CONTEXT, option_reply::META_CONTEXT, &data));
        }
        said.extend(reply(option::SET_META_CONTEXT, option_reply::ACK, &[]));
    }
    let info = [&wire::INFO_EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &1u16.to_be_bytes()].concat();
    said.extend(reply(option::GO, option_reply::INFO, &info));
    said.extend(reply(option::GO, option_reply::ACK, &[]));
    said
}

fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let length = data.len() as u32;
    [&wire::OPTION_REPLY.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes(), &length.to_be_bytes(), data]
        .concat()
}

/// A chunk of the reply to the first request.
fn chunk_of(kind: u16, done: bool, data: &[&[u8]]) -> Vec<u8> {
    let data = data.concat();
    [
        &wire::STRUCTURED_REPLY.to_be_bytes()[..],
        &u16::from(done).to_be_bytes(),
        &kind.to_be_bytes(),
        &1u64.to_be_bytes(),
        &(data.len() as u32).to_be_bytes(),
        &data,
    ]
    .concat()
}

/// A client whose server has said all it will ever say; the stream's other end is to be kept.
async fn after(said: &[u8], contexts: &[&str]) -> Result<(Client<DuplexStream>, DuplexStream), NbdError> {
    let (ours, mut theirs) = duplex(1 << 20);
    theirs.write_all(said).await.unwrap();
    let contexts: Vec<String> = contexts.iter().map(|&name| name.to_owned()).collect();
    within(SECOND, "negotiation", Client::over(ours, "disk", &contexts, SECOND)).await.map(|client| (client, theirs))
}

#[tokio::test]
async fn what_is_sent_is_what_the_protocol_says() {
    let (mut client, mut theirs) =
        after(&negotiation(1 << 20, &[(7, BASE_ALLOCATION)]), &[BASE_ALLOCATION]).await.unwrap();
    let asked = tokio::spawn(async move { client.read(4096, 512).await });
    let mut sent = vec![0; 4 + 16 + (16 + 4 + 4 + 4 + 4 + 15) + (16 + 4 + 4 + 2) + 28];
    theirs.read_exact(&mut sent).await.unwrap();
    let expected = [
        &[0, 0, 0, 3][..],
        b"IHAVEOPT\0\0\0\x08\0\0\0\0",
        b"IHAVEOPT\0\0\0\x0a\0\0\0\x1f\0\0\0\x04disk\0\0\0\x01\0\0\0\x0fbase:allocation",
        b"IHAVEOPT\0\0\0\x07\0\0\0\x0a\0\0\0\x04disk\0\0",
        b"\x25\x60\x95\x13\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x10\0\0\0\x02\0",
    ]
    .concat();
    assert_eq!(sent, expected);
    let zeroes = chunk_of(chunk::OFFSET_HOLE, false, &[&4096u64.to_be_bytes(), &256u32.to_be_bytes()]);
    let bytes = chunk_of(chunk::OFFSET_DATA, true, &[&(4096u64 + 256).to_be_bytes(), &[9; 256]]);
    theirs.write_all(&[zeroes, bytes].concat()).await.unwrap();
    let read = asked.await.unwrap().unwrap();
    assert_eq!(read, [[0; 256], [9; 256]].concat());
}

#[tokio::test]
async fn negotiations_that_cannot_end_well() {
    let good = negotiation(10, &[]);
    let short = good.len() - 20;
    let refused = [&good[..38], &reply(option::GO, option_reply::ERROR | 6, b"no such export")].concat();
    let endless = [&good[..38], &reply(option::GO, option_reply::INFO, &[9, 9]).repeat(100)].concat();
    let long =
        [&good[..38], &wire::OPTION_REPLY.to_be_bytes(), &[0, 0, 0, 7, 0, 0, 0, 3, 0xff, 0xff, 0xff, 0xff]].concat();
    for (said, expected) in [
        (&b"SSH-2.0-OpenSSH_9.9\r\n"[..], "is not the greeting of a newstyle server"),
        (&good[..short], "no answer to NBD negotiation within 1.0 s"),
        (&refused, "refuses the export: no such export"),
        (&endless, "more than 64 replies to option 7"),
        (&long, "a reply of 4294967295 bytes to option 7"),
    ] {
        let error = after(said, &[]).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let without = after(&negotiation(10, &[(1, "base:allocation")]), &["base:allocation", "qemu:dirty-bitmap:x"]).await;
    let said = without.unwrap_err().to_string();
    assert_eq!(said, "server does not support requested context: qemu:dirty-bitmap:x");
    let long = "x".repeat(LONGEST_NAME + 1);
    assert!(after(&good, &[&long]).await.unwrap_err().to_string().contains("not 4097"));
}

#[tokio::test]
async fn replies_that_are_none() {
    let status = |parts: &[u32]| -> Vec<u8> { parts.iter().flat_map(|number| number.to_be_bytes()).collect() };
    let read = 1u64.to_be_bytes();
    for (said, expected) in [
        (chunk_of(chunk::OFFSET_DATA, true, &[&read, &[0; 513]]), "521 bytes in a chunk of kind 1"),
        (chunk_of(chunk::OFFSET_DATA, true, &[&read, &[0; 512]]), "data at 1, outside of what was asked for"),
        (chunk_of(chunk::OFFSET_DATA, true, &[&0u64.to_be_bytes(), &[0; 5]]), "5 bytes where 512 were asked for"),
        (chunk_of(chunk::OFFSET_HOLE, true, &[&u64::MAX.to_be_bytes(), &[0xff; 4]]), "outside of what was asked for"),
        (chunk_of(chunk::BLOCK_STATUS, true, &[&status(&[7, 1, 1])]), "a status in reply to READ"),
        (chunk_of(77, true, &[]), "a chunk of kind 77"),
        (chunk_of(chunk::NONE, false, &[]), "an empty chunk that is not the last"),
        (b"HTTP/1.1 200 OK".to_vec(), "is not a reply"),
        (
            chunk_of(0x8001, true, &[&5u32.to_be_bytes(), &3u16.to_be_bytes(), b"bad"]),
            "NBD READ at offset 0 failed: bad (I/O error)",
        ),
        (
            [&wire::SIMPLE_REPLY.to_be_bytes()[..], &22u32.to_be_bytes(), &1u64.to_be_bytes()].concat(),
            "failed: Invalid argument",
        ),
    ] {
        let said = [negotiation(1 << 20, &[]), said].concat();
        let (mut client, _theirs) = after(&said, &[]).await.unwrap();
        let error = client.read(0, 512).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error} is not: {expected}");
    }
    for (parts, expected) in [
        (&[7, 0, 1][..], "a part without length"),
        (&[8, 512, 1], "status of context 8, which is not expected"),
        (&[7, 512], "8 bytes in a chunk"),
        (&[7, 512, 1, 1], "16 bytes in a status"),
    ] {
        let said = chunk_of(chunk::BLOCK_STATUS, true, &[&status(parts)]);
        let said = [negotiation(1 << 20, &[(7, "x")]), said].concat();
        let (mut client, _theirs) = after(&said, &["x"]).await.unwrap();
        let error = client.status(0, 1024).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error} is not: {expected}");
    }
    // The last part goes on beyond what was asked about.
    let said = [negotiation(2048, &[(7, "x")]), chunk_of(chunk::BLOCK_STATUS, true, &[&status(&[7, 512, 1, 4096, 0])])];
    let (mut client, _theirs) = after(&said.concat(), &["x"]).await.unwrap();
    let parts = vec![Part { length: 512, flags: 1 }, Part { length: 512, flags: 0 }];
    assert_eq!(client.status(0, 1024).await.unwrap(), [parts]);
}
