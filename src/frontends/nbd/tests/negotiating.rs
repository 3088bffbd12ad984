//! Options and their answers.

use super::*;

const SIZE: u64 = 1 << 20;

fn open() -> Arc<Service> {
    Arc::new(service(memory(SIZE, false)))
}

#[test]
fn an_export_name_is_answered_with_and_without_zeroes() {
    for (flags, len) in [(3, 10), (1, 134), (0, 134)] {
        let mut caller = Caller::connect(&open());
        caller.receive(18);
        caller.send(&[0, 0, 0, flags]);
        caller.send_option(1, b"disk");
        let answer = caller.receive(len);
        assert_eq!(answer[..8], SIZE.to_be_bytes());
        assert_eq!(answer[10..], vec![0; len - 10]);
        let reply = caller.call(0, Asked::empty(), 0, b"", 512);
        assert_eq!(reply.bytes(0, 512), [0; 512]);
        caller.ask(2, Asked::empty(), 0, 0, 0);
        assert!(matches!(caller.end(), End::Disconnected));
    }
}

#[test]
fn an_unknown_export_name_ends_the_conversation() {
    let mut caller = Caller::greeted(&open());
    caller.send_option(1, b"elsewhere");
    assert!(matches!(caller.end(), End::Refused(_)));
}

#[test]
fn exports_are_listed_with_their_descriptions() {
    let mut caller = Caller::greeted(&open());
    let expected = [&with_len("disk")[..], b"of a test"].concat();
    assert_eq!(caller.option(3, b""), [(2, expected), (1, vec![])]);
    assert_eq!(caller.option(3, b"x")[0].0, 0x8000_0003);
    assert!(matches!(caller.end(), End::Vanished));
}

#[test]
fn info_tells_what_was_asked_for_and_leaves_the_choice_open() {
    let service = open();
    let mut caller = Caller::greeted(&service);
    let plain = caller.option(6, &[with_len(""), vec![0, 0]].concat());
    assert_eq!(plain.len(), 2);
    assert_eq!(plain[0].0, 3);
    assert_eq!(
        plain[0].1[..10],
        [&[0, 0], &SIZE.to_be_bytes()[..]].concat()
    );
    let all = caller.option(
        6,
        &[with_len("disk"), vec![0, 3, 0, 3, 0, 2, 0, 1]].concat(),
    );
    assert_eq!(all.len(), 5);
    assert_eq!(all[1], (3, b"\0\x01disk".to_vec()));
    assert_eq!(all[2], (3, b"\0\x02of a test".to_vec()));
    assert_eq!(all[3], (3, vec![0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 4, 0, 0, 0]));
    let unknown = caller.option(6, &[with_len("no"), vec![0, 0]].concat());
    assert_eq!(unknown, [(0x8000_0006, b"no export `no`".to_vec())]);
    assert_eq!(caller.standing.export(), None);
    caller.option(7, &[with_len(""), vec![0, 0]].concat());
    assert_eq!(caller.standing.export().as_deref(), Some("disk"));
    assert!(matches!(caller.end(), End::Vanished));
    assert_eq!(service.seats.free(), service.bounds.clients);
}

#[test]
fn malformed_options_are_invalid_and_unknown_ones_unsupported() {
    let mut caller = Caller::greeted(&open());
    for number in [6, 7] {
        for data in [
            &b""[..],
            b"\0\0\0\x09disk\0\0",
            b"\0\0\0\0\0\0x",
            b"\0\0\0\x01\xff\0\0",
            b"\0\0\0",
            b"\xff\xff\xff\xff",
            b"\0\0\0\0\0\x01\0",
        ] {
            assert_eq!(caller.option(number, data)[0].0, 0x8000_0003, "{data:?}");
        }
    }
    caller.option(8, b"");
    for number in [9, 10] {
        for data in [
            &b""[..],
            b"\0\0\0\0\xff\xff\xff\xff",
            b"\0\0\0\0\0\0\0\x01\xff\xff\xff\xff",
        ] {
            assert_eq!(caller.option(number, data)[0].0, 0x8000_0003, "{data:?}");
        }
    }
    for number in [0, 4, 12, 9999, 0x8000_0000, 0xffff_ffff] {
        for data in [&b""[..], b"whatever", &[7; 60_000]] {
            assert_eq!(caller.option(number, data)[0].0, 0x8000_0001);
        }
    }
    assert_eq!(caller.option(5, b"")[0].0, 0x8000_0002, "there is no TLS");
    assert_eq!(caller.option(5, b"x")[0].0, 0x8000_0003);
    assert_eq!(caller.option(2, b""), [(1, vec![])]);
    assert!(matches!(caller.end(), End::Disconnected));
}

#[test]
fn long_options_are_drained_and_far_too_long_ones_are_not() {
    let service = open();
    let mut caller = Caller::greeted(&service);
    for number in [3, 6, 77] {
        let replies = caller.option(number, &vec![b'x'; (64 << 10) + 1]);
        assert_eq!(replies[0].0, 0x8000_0009);
    }
    let head = [&OPTION_MAGIC.to_be_bytes()[..], &[0, 0, 0, 6], &[0xff; 4]].concat();
    caller.send(&head);
    assert!(matches!(caller.end(), End::Broken(_)));
    let mut caller = Caller::greeted(&service);
    caller.send_option(1, &[b'x'; 4097]);
    assert!(matches!(caller.end(), End::Broken(_)));
}

#[test]
fn whoever_does_not_speak_the_protocol_is_disconnected() {
    let service = open();
    let mut caller = Caller::connect(&service);
    caller.receive(18);
    caller.send(&[0, 0, 0, 7]);
    assert!(matches!(caller.end(), End::Broken(_)));
    let mut caller = Caller::greeted(&service);
    caller.send(b"GET / HTTP/1.1\r\n");
    assert!(matches!(caller.end(), End::Broken(_)));
    let mut caller = Caller::greeted(&service);
    for _ in 0..1000 {
        caller.option(99, b"");
    }
    assert!(matches!(caller.end(), End::Broken(_)));
}

#[test]
fn replies_take_the_shape_that_was_chosen() {
    let mut caller = Caller::greeted(&open());
    assert_eq!(caller.option(8, b"x")[0].0, 0x8000_0003);
    assert_eq!(caller.option(8, b""), [(1, vec![])]);
    assert_eq!(caller.option(8, b"")[0].0, 0x8000_0003);
    assert_eq!(caller.option(11, b""), [(1, vec![])]);
    assert_eq!(caller.option(11, b"")[0].0, 0x8000_0003);
    assert_eq!(caller.option(8, b"")[0].0, 0x8000_000a);
}

#[test]
fn contexts_are_listed_and_chosen_with_structured_replies_only() {
    let mut caller = Caller::greeted(&open());
    let query = |queries: &[&str]| {
        let mut data = with_len("disk");
        data.extend(u32::try_from(queries.len()).unwrap().to_be_bytes());
        for query in queries {
            data.extend(with_len(query));
        }
        data
    };
    for option in [9, 10] {
        assert_eq!(caller.option(option, &query(&[]))[0].0, 0x8000_0003);
    }
    caller.option(8, b"");
    let context = |id: u8| (4, [&[0, 0, 0, id], &b"base:allocation"[..]].concat());
    let (found, nothing) = (vec![context(1), (1, vec![])], vec![(1, vec![])]);
    // In a list the number is reserved.
    let listed = vec![context(0), (1, vec![])];
    assert_eq!(caller.option(9, &query(&[])), listed);
    assert_eq!(caller.option(9, &query(&["x:y", "base:"])), listed);
    assert_eq!(caller.option(9, &query(&["base:allocation"])), listed);
    assert_eq!(caller.option(9, &query(&["base:other"])), nothing);
    assert_eq!(caller.option(10, &query(&["base:"])), nothing);
    assert_eq!(caller.option(10, &query(&["base:allocation"])), found);
    assert_eq!(caller.option(10, &query(&["x", "base:allocation"])), found);
    assert_eq!(caller.option(10, &query(&[])), nothing);
}

#[test]
fn a_context_counts_for_the_export_it_was_chosen_for() {
    for (chosen_for, error) in [("disk", 0), ("", 22), ("other", 22)] {
        let mut caller = Caller::greeted(&open());
        caller.option(8, b"");
        let data = [
            &with_len(chosen_for)[..],
            &[0, 0, 0, 1],
            &with_len("base:allocation"),
        ];
        caller.option(10, &data.concat());
        caller.option(7, &[with_len("disk"), vec![0, 0]].concat());
        caller.shape = Shape::Structured;
        let reply = caller.call(7, Asked::empty(), 0, b"", 512);
        assert_eq!(reply.error, error, "{chosen_for}");
    }
}

#[test]
fn without_a_seat_there_is_no_export() {
    let mut service = service(memory(SIZE, false));
    service.seats = Seats::new(1);
    let service = Arc::new(service);
    let first = Caller::gone(&service, Shape::Simple);
    let mut second = Caller::greeted(&service);
    for option in [6, 7] {
        let replies = second.option(option, &[with_len(""), vec![0, 0]].concat());
        assert_eq!(replies[0].0, 0x8000_0002);
    }
    assert!(matches!(first.end(), End::Vanished));
    let replies = second.option(7, &[with_len(""), vec![0, 0]].concat());
    assert_eq!(replies.last(), Some(&(1, vec![])));
}

#[test]
fn whoever_is_not_welcome_hears_nothing() {
    let mut service = service(memory(SIZE, false));
    service.exports = Arc::new(Shelf {
        disk: Arc::new(memory(SIZE, false)),
        welcome: false,
    });
    let caller = Caller::connect(&Arc::new(service));
    assert!(matches!(caller.end(), End::Refused(_)));
}

#[test]
fn a_silent_client_is_not_waited_for() {
    let mut service = service(memory(SIZE, false));
    service.bounds.handshake = Duration::from_millis(50);
    let mut caller = Caller::greeted(&Arc::new(service));
    let mut byte = [0];
    assert_eq!(caller.stream.read(&mut byte).unwrap(), 0);
    let end = caller.end();
    assert!(matches!(&end, End::Failed(error) if error.kind() == std::io::ErrorKind::TimedOut));
}
