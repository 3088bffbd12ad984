//! Lives in which anything happens in any order.

use super::*;

/// An action that is answered by an event, as the runtime would.
fn answer(action: &Action, chance: &mut fastrand::Rng) -> Option<Event> {
    let failed = Refusal::new("x: it did not work");
    Some(match action {
        Action::Reap => killed(),
        Action::Publish(_) => Event::Published(Published {
            taken: chance.bool(),
            command: chance.bool(),
            result: if chance.u8(..4) > 0 {
                Ok(())
            } else {
                Err(failed)
            },
        }),
        Action::Locate if chance.bool() => Event::Hangs(" in `pread`".into()),
        Action::Store(..) | Action::Release if chance.bool() => Event::Stored(Vec::new()),
        Action::Store(..) | Action::Release => Event::Stored(vec![failed]),
        Action::Examine => Event::Fails(chance.bool()),
        Action::RemoveLeftovers if chance.bool() => Event::Removed(Ok(())),
        Action::RemoveLeftovers if chance.bool() => Event::Removed(Err(failed)),
        _ => return None,
    })
}

/// Something that happens by itself.
fn by_chance(chance: &mut fastrand::Rng, client: &mut Client, commands: usize) -> Event {
    match chance.u8(..16) {
        0 => heard(FromWorker::Doing(Step::Open)),
        1 => heard(FromWorker::Starting),
        2 | 3 => heard(FromWorker::Ready(device())),
        4 => heard(FromWorker::Shutdown),
        5 => heard(FromWorker::Refused(told("no"))),
        6 => stopped(),
        7 => Event::Silent,
        8 => Event::Taken,
        9 => Event::LauncherGone,
        10 => Event::Signal(*chance.choice(&[TERM, INT, HUP]).unwrap()),
        11 | 12 => {
            *client += 1;
            detach(*client, chance.bool())
        }
        13 if commands > 0 => Event::CommandEnded(0),
        14 => Event::Ended,
        _ => Event::Tick,
    }
}

/// Whatever happens, in whatever order: once the worker has ended there is an end, everybody who waits is answered
/// once, the launcher is told, and a worker is not acted on after it was waited for.
#[test]
fn every_life_comes_to_an_end_that_everybody_is_told_of() {
    let mut chance = crate::chance::random();
    for _ in 0..20_000 {
        one_life(&mut chance);
    }
}

fn one_life(chance: &mut fastrand::Rng) {
    let mut life = Life::at_device();
    let (mut happened, mut done) = (Vec::new(), Vec::new());
    let mut coming: Vec<Event> = Vec::new();
    let mut client = 0;
    let mut commands = 0;
    let steps = chance.usize(..24);
    for turn in 0.. {
        assert!(turn < 300, "no end: {happened:#?}");
        let next = match coming.pop() {
            Some(event) => event,
            None if turn < steps => by_chance(chance, &mut client, commands),
            None => the_end(&mut life, &happened, commands),
        };
        if matches!(next, Event::Tick)
            && let Some(at) = life.machine.deadline()
        {
            life.now = life.now.max(at);
        }
        happened.push(next.clone());
        let actions = life.machine.step(next, life.now);
        for action in actions {
            let event = answer(&action, chance);
            if let Some(Event::Published(Published { command: true, .. })) = event {
                commands += 1;
            }
            coming.extend(event);
            done.push(action);
        }
        if life.machine.outcome().is_some() {
            break;
        }
    }
    everybody_was_told(&done, &happened, client);
}

/// What ends every life in the end.
fn the_end(life: &mut Life, happened: &[Event], commands: usize) -> Event {
    let is_new = |event: &Event| {
        let same = std::mem::discriminant(event);
        !happened
            .iter()
            .any(|past| std::mem::discriminant(past) == same)
    };
    if life.machine.deadline().is_some() && happened.len().is_multiple_of(2) {
        return Event::Tick;
    }
    let more = [Event::Ended, Event::Silent, Event::CommandEnded(1)];
    more.into_iter()
        .find(|event| is_new(event) && (commands > 0 || !matches!(event, Event::CommandEnded(_))))
        .unwrap_or(Event::Tick)
}

fn everybody_was_told(done: &[Action], happened: &[Event], clients: Client) {
    let count =
        |wanted: &dyn Fn(&Action) -> bool| done.iter().filter(|action| wanted(action)).count();
    for client in 1..=clients {
        let asked = happened
            .iter()
            .any(|event| matches!(event, Event::Detach { client: one, .. } if *one == client));
        let answers = count(&|action| {
            matches!(action, Action::Answer(one, answer)
                if *one == client && !matches!(answer, Answer::Doing(_)))
        });
        assert_eq!(answers, usize::from(asked), "{happened:#?}\n{done:#?}");
    }
    let refused = count(&|action| matches!(action, Action::TellLauncher(FromAgent::Refused(_))));
    let published = happened
        .iter()
        .any(|event| matches!(event, Event::Published(Published { result: Ok(()), .. })));
    assert_eq!(refused, usize::from(!published), "{happened:#?}\n{done:#?}");
    assert!(count(&|action| matches!(action, Action::RemoveFolder)) <= 1);
    assert!(count(&|action| matches!(action, Action::Reap)) <= 1);
    let reaped = done
        .iter()
        .position(|action| matches!(action, Action::Reap));
    let after = done.iter().skip(reaped.unwrap_or(done.len()));
    let acted_on = after.filter(|action| {
        matches!(
            action,
            Action::StopWorker | Action::KillWorker | Action::KillGroup
        )
    });
    assert_eq!(acted_on.count(), 0, "{happened:#?}\n{done:#?}");
}
