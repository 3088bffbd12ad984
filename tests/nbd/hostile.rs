//! Clients that mean no good, or know no better: whatever they send, the server answers or closes, the
//! next client is served, and the server holds no more than before.

use support::nbd::MIB;
use support::nbd::attacked::{Attacked, conversation};
use support::nbd::raw::{Ask, cmd, opt, option, option_header, rep};

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

/// Cut short politely and not.
#[test]
fn a_conversation_may_end_at_every_byte() {
    let attacked = Attacked::new(&[]);
    let said = conversation();
    let mut client = attacked.raw();
    client.send(&said);
    let whole = client.rest();
    // It was understood: the last read's data, pages of ones, ends the replies.
    assert!(whole.ends_with(&[1; 8]), "{whole:?}");
    let mut answered = 0;
    for len in 0..said.len() {
        let mut client = attacked.raw();
        client.send(&said[..len]);
        client.half_close();
        let heard = client.rest();
        assert!(
            whole.starts_with(&heard) && heard.len() >= answered,
            "{len} of {} bytes: {heard:?}",
            said.len()
        );
        answered = heard.len();

        let mut client = attacked.raw();
        client.send(&said[..len]);
        drop(client);
    }
    attacked.is_as_before(4 * MIB);
}

/// Replies to requests that are served at the same time come in any order, so only the end counts.
#[test]
fn a_conversation_with_a_parallel_plugin_may_end_at_every_byte() {
    let attacked = Attacked::parallel();
    let said = conversation();
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
