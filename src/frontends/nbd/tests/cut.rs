//! Clients that go away in the middle of a word.

use super::*;

/// All that a client says from its first to its last byte, and how much of it there is when its one
/// write has come.
fn conversation(shape: Shape) -> (Vec<u8>, usize) {
    let mut said = vec![0, 0, 0, 3];
    let mut option = |number: u32, data: &[u8]| {
        said.extend(OPTION_MAGIC.to_be_bytes());
        said.extend(number.to_be_bytes());
        said.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        said.extend(data);
    };
    option(4711, b"unknown");
    match shape {
        Shape::Simple => option(3, b""),
        Shape::Structured => option(8, b""),
        Shape::Extended => option(11, b""),
    }
    let context = [
        &with_len("disk")[..],
        &[0, 0, 0, 1],
        &with_len("base:allocation"),
    ];
    option(10, &context.concat());
    option(6, &[with_len(""), vec![0, 0]].concat());
    option(7, &[with_len("disk"), vec![0, 1, 0, 3]].concat());
    let head = |command, asked, at, len| Head {
        asked,
        command,
        cookie: 1,
        at,
        len,
    };
    let announced = match shape {
        Shape::Extended => Asked::PAYLOAD_LEN,
        _ => Asked::empty(),
    };
    said.extend(head(1, announced, 512, 100).encode(shape));
    said.extend([7; 100]);
    let written = said.len();
    said.extend(head(0, Asked::empty(), 512, 4096).encode(shape));
    let rest = [
        (3, 0, 0),
        (4, 8192, 4096),
        (6, 8192, 4096),
        (7, 8192, 8192),
        (0, 8192, 8),
        (2, 0, 0),
    ];
    for (command, at, len) in rest {
        said.extend(head(command, Asked::empty(), at, len).encode(shape));
    }
    (said, written)
}

#[test]
fn a_conversation_may_end_at_every_byte_and_half_a_write_is_none() {
    for shape in [Shape::Simple, Shape::Structured, Shape::Extended] {
        for parallel in [false, true] {
            let (said, written) = conversation(shape);
            let mut longer = None;
            for cut in (0..=said.len()).rev() {
                let disk = Arc::new(memory(1 << 20, parallel));
                let service = Arc::new(service(Arc::clone(&disk)));
                let mut caller = Caller::connect(&service);
                caller.send(&said[..cut]);
                caller.stream.shutdown(std::net::Shutdown::Write).unwrap();
                let mut answers = Vec::new();
                caller.stream.read_to_end(&mut answers).unwrap();
                let end = caller.end();
                let whole = cut == said.len();
                assert_eq!(matches!(end, End::Disconnected), whole, "{cut}: {end}");
                assert!(whole || matches!(end, End::Vanished), "{cut}: {end}");
                assert_eq!(service.seats.free(), service.bounds.clients);
                let expected = if cut < written { 0 } else { 7 };
                assert_eq!(disk.peek(512, 100), [expected; 100], "{cut}");
                // The start of what is answered to more; a parallel disk answers in any order.
                let more = longer.replace(answers.clone());
                let starts = more.is_none_or(|more: Vec<u8>| more.starts_with(&answers));
                assert!(parallel || starts, "{cut}");
            }
        }
    }
}
