//! Runs the scenes: in every order where that is a matter of seconds, else in many.

/// A test for each scene, by its name.
macro_rules! scenes {
    ($of:ident: every $($all:ident)*; many $($many:ident)*) => {
        $(#[test]
        fn $all() {
            pydisk_models::every_order($of::$all);
        })*
        $(#[test]
        fn $many() {
            pydisk_models::many_orders($of::$many);
        })*
    };
}

mod vigil {
    use pydisk_models::frontends::vigil_scenes;

    scenes! {
        vigil_scenes: every
            who_slept_long_goes_to_sleep_at_once_and_who_did_not_looks
            who_looks_in_vain_goes_to_sleep;
        many
    }
}

mod turns {
    use pydisk_models::frontends::nbd::transmission::turns_scenes;

    scenes! {
        turns_scenes: every
            the_turn_is_handed_on_to_one_lane_without_a_clock;
        many
            one_lane_reads_at_a_time_and_all_end
            a_lane_that_does_not_come_back_is_not_waited_for
            after_a_slow_request_the_turn_is_handed_on_without_a_clock
            anybody_may_end_it
    }
}

mod lanes {
    use pydisk_models::frontends::nbd::transmission::lanes_scenes;

    scenes! {
        lanes_scenes: every; many
            every_request_is_answered_once_by_two_lanes
            every_request_is_answered_once_by_three_lanes
            every_request_is_answered_where_there_are_no_more_threads
            a_reply_does_not_wait_for_a_slow_request
            a_slow_request_holds_up_nobody
            what_came_before_the_end_is_answered
            what_came_before_a_goodbye_is_answered
            a_client_may_hang_up_at_any_time
    }
}

mod aside {
    use pydisk_models::frontends::nbd::transmission::aside_scenes;

    scenes! {
        aside_scenes: every; many
            every_request_is_answered_once_and_in_order
            every_request_is_answered_without_a_clock
            every_request_is_answered_where_there_are_no_more_threads
            every_request_is_answered_where_threads_come_and_go
            a_reply_does_not_wait_for_a_slow_request
            a_reply_does_not_wait_for_a_slow_request_without_a_clock
            a_reply_does_not_wait_for_the_rest_of_the_next_request
            a_reply_does_not_wait_for_the_rest_of_the_next_request_without_a_clock
            what_came_before_the_end_is_answered
            a_client_may_hang_up_at_any_time
    }
}

mod coroutines {
    use pydisk_models::python::coroutines::scenes;

    scenes! {
        scenes: every
            a_request_that_is_forgotten_is_answered
            a_request_that_is_forgotten_later_is_answered
            a_request_that_is_not_for_the_loop_is_answered
            a_request_that_is_not_begun_is_answered
            a_request_that_is_cancelled_is_answered
            a_request_that_is_served_is_answered_with_what_came_of_it;
        many
            what_is_told_after_the_end_changes_nothing
            looking_now_and_then_changes_nothing
            the_outcome_of_a_callback_reaches_who_waits
            every_request_that_was_pushed_is_served
            who_asks_while_the_loop_ends_is_told
    }
}
