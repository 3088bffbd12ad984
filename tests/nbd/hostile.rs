//! Clients that mean no good, or know no better: whatever they send, the server answers or closes, the
//! next client is served, and the server holds no more than before.

use support::nbd::MIB;
use support::nbd::attacked::{Attacked, Framing, SIZE, conversation};
use support::nbd::raw::{self, Ask, cmd, error, export, opt, option, option_header, rep};

#[test]
fn words_that_are_no_nbd_are_answered_by_closing() {
    let attacked = Attacked::new(&[]);
    let greetings: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        &[0; 64],
        &[0xff; 64],
        // Flags that nobody knows.
        &[0xff, 0xff, 0xff, 0xff],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ];
    for words in greetings {
        let mut client = attacked.raw();
        client.greeting();
        client.send(words);
        client.half_close();
        client.rest();
        attacked.serves_the_next();
    }
    // A magic that is wrong by one bit, where an option is due.
    let mut client = attacked.greeted();
    let mut bytes = option(opt::LIST, &[]);
    bytes[7] ^= 1;
    client.send(&bytes);
    client.ended();
    attacked.is_as_before(2 * MIB);
}

#[test]
fn unknown_options_are_refused_and_drained() {
    let attacked = Attacked::new(&[]);
    let mut client = attacked.greeted();
    for number in [0, 4, 9999, 0x8000_0000, u32::MAX] {
        for data in [vec![], vec![7; 1], vec![7; 60_000]] {
            assert_eq!(client.answer(number, &data), rep::ERR_UNSUP, "{number}");
        }
    }
    assert_eq!(client.go("").size, SIZE);
    assert_eq!(client.pread(4096, 1), [1]);
    drop(client);
    attacked.is_as_before(2 * MIB);
}

#[test]
fn options_with_wrong_data_are_refused_and_the_next_is_answered() {
    let attacked = Attacked::new(&[]);
    let too_long = u32::MAX.to_be_bytes();
    let lying = [&9_u32.to_be_bytes()[..], b"short"].concat();
    let half_an_info = export(b"", &[3])[..7].to_vec();
    let many_queries = [&raw::contexts(b"", &[])[..4], &too_long].concat();
    let long_query = [
        &raw::contexts(b"", &[])[..4],
        &1_u32.to_be_bytes(),
        &too_long,
    ]
    .concat();
    let not_utf8 = export(b"\xff\xfe\xfd", &[]);
    let behind = [export(b"", &[]), vec![0]].concat();
    let cases: [(u32, &[u8]); 14] = [
        (opt::LIST, b"data where none belongs"),
        (opt::STRUCTURED_REPLY, b"x"),
        (opt::EXTENDED_HEADERS, b"x"),
        (opt::GO, b""),
        (opt::GO, b"\0\0\0"),
        (opt::GO, &too_long),
        (opt::GO, &lying),
        (opt::GO, &half_an_info),
        (opt::GO, &behind),
        (opt::INFO, &lying),
        (opt::INFO, &not_utf8),
        (opt::SET_META_CONTEXT, b""),
        (opt::SET_META_CONTEXT, &many_queries),
        (opt::LIST_META_CONTEXT, &long_query),
    ];
    let mut client = attacked.greeted();
    assert_eq!(client.answer(opt::STRUCTURED_REPLY, &[]), rep::ACK);
    for (number, data) in cases {
        let reply = client.option(number, data);
        assert!(
            reply.last().unwrap().is_error(),
            "{number} {data:?}: {reply:?}"
        );
    }
    // All that did no harm: what is right is still answered.
    assert_eq!(client.answer(opt::LIST, &[]), rep::ACK);
    drop(client);
    attacked.is_as_before(2 * MIB);
}

#[test]
fn options_too_big_to_be_true_are_not_waited_for() {
    let attacked = Attacked::new(&[]);
    let options = [
        opt::EXPORT_NAME,
        opt::LIST,
        opt::GO,
        opt::SET_META_CONTEXT,
        4711,
    ];
    for number in options {
        for len in [u32::MAX, 1 << 31, (64 << 10) + 1] {
            let mut client = attacked.greeted();
            client.send(&option_header(number, len));
            client.send(&[0x41; 100_000]);
            client.half_close();
            let said = client.rest();
            // Nothing, or that it is too big.
            let refusal = said.get(12..16).map_or(rep::ERR_TOO_BIG, |kind| {
                u32::from_be_bytes(kind.try_into().unwrap())
            });
            assert!(refusal & 0x8000_0000 != 0, "{number}, {len}: {said:?}");
        }
    }
    attacked.is_as_before(4 * MIB);
}

#[test]
fn a_negotiation_without_end_is_ended() {
    let attacked = Attacked::new(&[]);
    let mut client = attacked.greeted();
    let list = option(opt::LIST, &[]);
    let asked = 5000;
    for _ in 0..asked {
        client.send(&list);
    }
    // Two replies of 28 bytes at most to each; fewer came, since the server has had enough.
    let said = client.rest();
    assert!(said.len() < asked * 44, "{}", said.len());
    drop(client);
    attacked.is_as_before(4 * MIB);
}

#[test]
fn requests_that_cannot_be_served_get_an_error() {
    let attacked = Attacked::new(&[]);
    let mut client = attacked.opened();
    let (end, far) = (SIZE, 1 << 63);
    let cases = [
        (Ask::of(cmd::READ, end, 1), error::EINVAL),
        (Ask::of(cmd::READ, end - 1, 2), error::EINVAL),
        (Ask::of(cmd::READ, far, 512), error::EINVAL),
        (Ask::of(cmd::READ, u64::MAX, 512), error::EINVAL),
        (Ask::of(cmd::READ, u64::MAX - 511, 512), error::EINVAL),
        (Ask::of(cmd::READ, 0, 0), error::EINVAL),
        (Ask::of(cmd::TRIM, end - 512, 1024), error::EINVAL),
        (Ask::of(cmd::TRIM, 0, u32::MAX.into()), error::EINVAL),
        (Ask::of(cmd::TRIM, far, u32::MAX.into()), error::EINVAL),
        (Ask::of(cmd::WRITE_ZEROES, end, 512), error::ENOSPC),
        (
            Ask::of(cmd::WRITE_ZEROES, 0, u32::MAX.into()),
            error::ENOSPC,
        ),
        (Ask::of(cmd::WRITE_ZEROES, far, 512), error::ENOSPC),
        // Without structured replies there is none of it, and this disk has no cache.
        (Ask::of(cmd::BLOCK_STATUS, 0, 512), error::EINVAL),
        (Ask::of(cmd::CACHE, 0, 512), error::EINVAL),
        (Ask::of(99, 0, 512), error::EINVAL),
        (Ask::of(u16::MAX, 0, 0), error::EINVAL),
        // Flags that nobody knows, and some that do not belong to the command.
        (Ask::of(cmd::READ, 0, 512).flags(0x8000), error::EINVAL),
        (Ask::of(cmd::READ, 0, 512).flags(1 << 2), error::EINVAL),
        (Ask::of(cmd::FLUSH, 0, 0).flags(1 << 3), error::EINVAL),
        (Ask::of(cmd::TRIM, 0, 512).flags(1 << 1), error::EINVAL),
        (Ask::of(cmd::TRIM, 0, 512).flags(1 << 4), error::EINVAL),
        (
            Ask::of(cmd::WRITE_ZEROES, 0, 512).flags(0xff00),
            error::EINVAL,
        ),
    ];
    for (ask, expected) in cases {
        assert_eq!(client.ask(ask, &[]), expected, "{ask:?}");
        assert_eq!(client.pread(4096, 1), [1], "after {ask:?}");
    }
    // The data of a write that fails is taken, too.
    let writes = [
        (Ask::of(cmd::WRITE, end, 512), error::ENOSPC),
        (Ask::of(cmd::WRITE, end - 256, 512), error::ENOSPC),
        (Ask::of(cmd::WRITE, far, 512), error::ENOSPC),
        (Ask::of(cmd::WRITE, u64::MAX, 512), error::ENOSPC),
        (Ask::of(cmd::WRITE, 0, 512).flags(0x4000), error::EINVAL),
    ];
    for (ask, expected) in writes {
        assert_eq!(client.ask(ask, &[0x5a; 512]), expected, "{ask:?}");
        assert_eq!(client.pread(4096, 1), [1], "after {ask:?}");
    }
    drop(client);
    attacked.is_as_before(2 * MIB);
}

#[test]
fn requests_of_absurd_lengths_take_no_memory() {
    let attacked = Attacked::new(&[]);
    for len in [u32::MAX, 1 << 31, (64 << 20) + 1] {
        let mut client = attacked.opened();
        // Refused, or the connection is closed.
        client.send(&Ask::of(cmd::READ, 0, len.into()).compact());
        client.half_close();
        let said = client.rest();
        assert!(said.len() <= 16, "{len}: {} bytes", said.len());
        assert!(said.get(4..8) != Some(&[0; 4]), "{len}: success");

        // Data that cannot all be kept, and does not all come.
        let mut client = attacked.opened();
        client.send(&Ask::of(cmd::WRITE, 0, len.into()).compact());
        client.send(&vec![0x5a; 300_000]);
        client.half_close();
        let said = client.rest();
        assert!(said.get(4..8) != Some(&[0; 4]), "{len}: success");
        attacked.serves_the_next();
    }
    attacked.is_as_before(8 * MIB);
}

#[test]
fn extended_requests_of_absurd_lengths_get_an_error() {
    let attacked = Attacked::new(&[]);
    let mut client = attacked.greeted();
    assert_eq!(client.answer(opt::EXTENDED_HEADERS, &[]), rep::ACK);
    client.go("");
    let commands = [
        (cmd::READ, error::EINVAL),
        (cmd::TRIM, error::EINVAL),
        (cmd::WRITE_ZEROES, error::ENOSPC),
        (cmd::FLUSH, 0),
        (99, error::EINVAL),
    ];
    for len in [u64::from(u32::MAX), 1 << 33, 1 << 63, u64::MAX] {
        for (command, expected) in commands {
            let ask = Ask::of(command, 0, len);
            client.send(&ask.extended());
            assert_eq!(client.u32(), raw::EXTENDED_REPLY);
            let (_flags, kind) = (client.read::<2>(), client.read::<2>());
            assert_eq!((client.u64(), client.u64()), (ask.cookie, 0));
            let len_of_chunk = client.u64();
            let chunk = client.read_vec(usize::try_from(len_of_chunk).unwrap());
            let told = match u16::from_be_bytes(kind) {
                0 => 0,
                kind => {
                    assert!(kind & 0x8000 != 0, "{ask:?}: {kind}");
                    u32::from_be_bytes(chunk[..4].try_into().unwrap())
                }
            };
            // What is too long is no argument; a flush has no length to be wrong.
            let fits = told == expected || told == error::EINVAL;
            assert!(fits, "{ask:?}: {told}");
        }
    }
    // A compact header where an extended one is due ends the conversation.
    client.send(&Ask::of(cmd::READ, 0, 512).compact());
    client.half_close();
    client.rest();
    attacked.is_as_before(2 * MIB);
}

#[test]
fn a_wrong_magic_ends_the_transmission() {
    let attacked = Attacked::new(&[]);
    for magic in [0, raw::SIMPLE_REPLY, raw::EXTENDED_REQUEST, u32::MAX] {
        let mut client = attacked.opened();
        let mut bytes = Ask::of(cmd::READ, 0, 512).compact();
        bytes[..4].copy_from_slice(&magic.to_be_bytes());
        client.send(&bytes);
        client.ended();
    }
    attacked.is_as_before(2 * MIB);
}

/// Cut a conversation short at every byte, politely and not.
fn cut_everywhere(framing: Framing) {
    let attacked = Attacked::new(&[]);
    let said = conversation(framing);
    let mut client = attacked.raw();
    client.send(&said);
    let whole = client.rest();
    // It was understood: the last read's data, pages of ones, ends the replies.
    assert!(whole.ends_with(&[1; 8]), "{framing:?}: {whole:?}");
    let mut answered = 0;
    for len in 0..said.len() {
        let mut client = attacked.raw();
        client.send(&said[..len]);
        client.half_close();
        let heard = client.rest();
        assert!(
            whole.starts_with(&heard) && heard.len() >= answered,
            "{framing:?}, {len} of {} bytes: {heard:?}",
            said.len()
        );
        answered = heard.len();

        let mut client = attacked.raw();
        client.send(&said[..len]);
        drop(client);
    }
    attacked.is_as_before(4 * MIB);
}

#[test]
fn a_simple_conversation_may_end_at_every_byte() {
    cut_everywhere(Framing::Simple);
}

#[test]
fn a_structured_conversation_may_end_at_every_byte() {
    cut_everywhere(Framing::Structured);
}

#[test]
fn an_extended_conversation_may_end_at_every_byte() {
    cut_everywhere(Framing::Extended);
}

/// Replies to requests that are served at the same time come in any order, so only the end counts.
#[test]
fn a_conversation_with_a_parallel_plugin_may_end_at_every_byte() {
    let attacked = Attacked::parallel();
    let said = conversation(Framing::Extended);
    for len in 0..said.len() {
        let mut client = attacked.raw();
        client.send(&said[..len]);
        client.half_close();
        client.rest();

        let mut client = attacked.raw();
        client.send(&said[..len]);
        drop(client);
    }
    attacked.is_as_before(8 * MIB);
}
