use proptest::prelude::*;

use super::*;

fn packet(kind: u8, fields: &[u8]) -> Vec<u8> {
    let mut bytes = (fields.len() as u32 + 1).to_be_bytes().to_vec();
    bytes.push(kind);
    bytes.extend(fields);
    bytes
}

fn string(text: &[u8]) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text);
    bytes
}

#[test]
fn a_write_carries_its_data_without_a_copy() {
    let data = Bytes::from(vec![7; 1000]);
    let request = Request::Write {
        handle: b"h",
        offset: 0x0102_0304,
        data: &data,
    };
    let frame = request.encode(9);
    assert_eq!(frame.body.as_ptr(), data.as_ptr());
    let expected = [
        &[0, 0, 3, 254, 6, 0, 0, 0, 9, 0, 0, 0, 1, b'h'][..],
        &[0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 3, 232],
    ]
    .concat();
    assert_eq!(frame.head, expected);
}

#[test]
fn a_file_is_opened_with_its_mode() {
    let request = Request::Open {
        path: "/a",
        flags: flag::WRITE | flag::CREATE | flag::EXCLUSIVE,
        mode: 0o600,
    };
    let expected = [
        &[0, 0, 0, 23, 3, 0, 0, 0, 1, 0, 0, 0, 2, b'/', b'a'][..],
        &[0, 0, 0, 42, 0, 0, 0, 4, 0, 0, 1, 128],
    ]
    .concat();
    assert_eq!(request.encode(1).head, expected);
}

#[test]
fn a_hello_tells_the_extensions() {
    let fields = [
        &3u32.to_be_bytes()[..],
        &string(b"fsync@openssh.com"),
        &string(b"1"),
    ]
    .concat();
    let mut incoming = Incoming::default();
    incoming.push(packet(2, &fields).into());
    let hello = incoming.next_hello().expect("hello").expect("whole");
    assert_eq!(hello.extensions, ["fsync@openssh.com"]);
    incoming.push(packet(2, &1u32.to_be_bytes()).into());
    assert_eq!(incoming.next_hello(), Err(Garbled), "an old version");
}

#[test]
fn names_come_with_size_kind_and_time() {
    let fields = [
        &[0, 0, 0, 5, 0, 0, 0, 1][..],
        &string(b"a.1"),
        &string(b"-rw------- a.1"),
        &0x8000_000fu32.to_be_bytes(),
        &3u64.to_be_bytes(),
        &[0; 8],
        &0o100_600u32.to_be_bytes(),
        &1u32.to_be_bytes(),
        &2u32.to_be_bytes(),
        &1u32.to_be_bytes(),
        &string(b"more"),
        &string(b"still"),
    ]
    .concat();
    let mut incoming = Incoming::default();
    incoming.push(packet(104, &fields).into());
    let (id, reply) = incoming.next_reply().expect("names").expect("whole");
    let Reply::Names(names) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!((id, names.len(), &names[0].name[..]), (5, 1, &b"a.1"[..]));
    let attributes = names[0].attributes;
    assert!(attributes.is_file() && !attributes.is_folder());
    assert_eq!(
        (attributes.bytes, attributes.modify_time_s),
        (Some(3), Some(2))
    );
}

#[test]
fn lengths_that_cannot_be_are_refused() {
    for bytes in [
        vec![0xff; 8],
        vec![0, 0, 0, 4, 101, 0, 0, 0],
        packet(103, &[0, 0, 0, 1, 0, 0, 0, 9, 1]),
        packet(102, &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]),
        packet(104, &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]),
        packet(77, &[0; 4]),
    ] {
        let mut incoming = Incoming::default();
        incoming.push(bytes.clone().into());
        assert_eq!(incoming.next_reply(), Err(Garbled), "{bytes:?}");
    }
}

proptest! {
    #[test]
    fn a_reply_is_the_same_however_it_is_cut(data in prop::collection::vec(any::<u8>(), 0..2000), cuts in prop::collection::vec(0usize..2100, 0..8)) {
        let fields = [&7u32.to_be_bytes()[..], &string(&data)].concat();
        let bytes = Bytes::from([packet(103, &fields), packet(101, &[0, 0, 0, 8, 0, 0, 0, 1])].concat());
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut incoming = Incoming::default();
        let mut replies = Vec::new();
        for pair in cuts.windows(2) {
            incoming.push(bytes.slice(pair[0]..pair[1]));
            while let Some(reply) = incoming.next_reply().expect("no garbage") {
                replies.push(reply);
            }
        }
        prop_assert_eq!(replies.len(), 2);
        let Reply::Data(pieces) = &replies[0].1 else { panic!("no data") };
        prop_assert_eq!(pieces.concat(), data);
        let eof = Status { code: status::EOF, message: String::new() };
        prop_assert_eq!(&replies[1], &(8, Reply::Status(eof)));
    }

    #[test]
    fn whatever_arrives_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut incoming = Incoming::default();
        incoming.push(Bytes::from(bytes.clone()));
        while let Ok(Some(_)) = incoming.next_reply() {}
        incoming = Incoming::default();
        incoming.push(Bytes::from(bytes.clone()));
        let _ = incoming.next_hello();
        let _ = FileSystem::parse(Bytes::from(bytes.clone()));
        let _ = Limits::parse(Bytes::from(bytes));
    }
}
