use super::super::tests::{at, evaluate, status};
use super::*;

fn at_time(now: &str) -> LoopStatus {
    LoopStatus { now: at(now), ..status() }
}

/// The times among `times` at which the nightly schedule fires; the loop was started on 1 January at noon.
fn fires(times: &[&str]) -> Vec<usize> {
    let (nightly, mut memory) = (schedule("0 3 * * *").unwrap(), Memory::default());
    let fired = |time: &&str| nightly.evaluate(&at_time(time), &mut memory).unwrap().fires();
    times.iter().map(fired).enumerate().filter_map(|(index, fired)| fired.then_some(index)).collect()
}

#[test]
fn fires_once_per_due_time() {
    let times = [
        "2026-01-01T12:00:00Z",
        "2026-01-02T02:59:59.999Z",
        "2026-01-02T03:00:00.5Z",
        "2026-01-02T03:00:01Z",
        "2026-01-03T02:00:00Z",
        "2026-01-03T03:00:00Z",
    ];
    assert_eq!(fires(&times), [2, 5]);
}

#[test]
fn missed_times_count_as_one() {
    assert_eq!(fires(&["2026-01-09T12:00:00Z", "2026-01-09T12:01:00Z"]), [0]);
}

#[test]
fn a_clock_that_goes_back_does_not_fire_again() {
    let times = ["2026-01-05T03:10:00Z", "2026-01-04T03:10:00Z", "2026-01-05T02:00:00Z", "2026-01-05T03:10:00Z"];
    assert_eq!(fires(&times), [0]);
}

#[test]
fn a_run_after_the_due_time_counts_for_it_and_one_in_flight_delays_it() {
    let (nightly, mut memory) = (schedule("0 3 * * *").unwrap(), Memory::default());
    let mut decide = |status: LoopStatus| nightly.evaluate(&status, &mut memory).unwrap();
    let late = at_time("2026-01-02T04:00:00Z");
    assert!(!decide(LoopStatus { last_run: Some(at("2026-01-02T03:30:00Z")), ..late.clone() }).fires());
    let early_run = LoopStatus { last_run: Some(at("2026-01-02T02:30:00Z")), ..late };
    let waits = decide(LoopStatus { running: true, ..early_run.clone() });
    assert_eq!(waits.why().text, "`0 3 * * *` was due at 2026-01-02 03:00 UTC; waits for the run in flight");
    assert!(decide(early_run).fires(), "the due time is not lost");
}

#[test]
fn tells_when_it_is_next_due() {
    let waits = evaluate(&schedule("0 3 * * *").unwrap(), &at_time("2026-01-02T15:00:00Z"));
    assert!(waits.fires(), "it was due in the morning");
    let run = LoopStatus { last_run: Some(at("2026-01-02T03:00:00Z")), ..at_time("2026-01-02T15:00:00Z") };
    let waits = evaluate(&schedule("0 3 * * *").unwrap(), &run);
    assert_eq!(waits.why().text, "`0 3 * * *` is next due at 2026-01-03 03:00 UTC, in 12 h 0 min");
    assert_eq!(waits.progress(), 0.5);
}

#[test]
fn mistakes_in_the_pattern_are_named() {
    let why = |pattern: &str| schedule(pattern).err().unwrap().to_string();
    assert!(why("0 25 * * *").contains("schedule `0 25 * * *`"), "{}", why("0 25 * * *"));
    assert!(why("0 0 30 2 *").contains("schedule `0 0 30 2 *`"));
}

/// What is said at each of `times`, of a loop that was opened and first asked at noon on 1 January.
fn said(policy: Missed, times: &[&str]) -> Vec<String> {
    let (nightly, mut memory) = (Schedule::new("0 3 * * *").unwrap().missed(policy), Memory::default());
    let mut last_run = None;
    let mut say = |now: &&str| {
        let decision = nightly.evaluate(&LoopStatus { last_run, ..at_time(now) }, &mut memory).unwrap();
        last_run = if decision.fires() { Some(at(now)) } else { last_run };
        format!("{}{}", if decision.fires() { "fires: " } else { "" }, decision.why().text)
    };
    say(&"2026-01-01T12:00:00Z");
    times.iter().map(say).collect()
}

#[test]
fn skip_lets_go_what_is_found_late() {
    let times = ["2026-01-02T03:04:00Z", "2026-01-03T03:06:00Z", "2026-01-04T03:00:00Z"];
    assert_eq!(
        said(Missed::Skip, &times),
        [
            "fires: `0 3 * * *` was due at 2026-01-02 03:00 UTC",
            "`0 3 * * *` is next due at 2026-01-04 03:00 UTC, in 23 h 54 min; the one at 2026-01-03 03:00 UTC was missed",
            "fires: `0 3 * * *` was due at 2026-01-04 03:00 UTC",
        ]
    );
}

#[test]
fn once_makes_up_for_the_last_of_those_missed() {
    let times = ["2026-01-05T12:00:00Z", "2026-01-05T12:01:00Z"];
    assert_eq!(
        said(Missed::Once, &times),
        [
            "fires: `0 3 * * *` was due at 2026-01-05 03:00 UTC",
            "`0 3 * * *` is next due at 2026-01-06 03:00 UTC, in 14 h 59 min",
        ]
    );
}

#[test]
fn all_gives_each_of_those_missed_a_run() {
    let times = ["2026-01-04T12:00:00Z", "2026-01-04T12:01:00Z", "2026-01-04T12:02:00Z", "2026-01-04T12:03:00Z"];
    assert_eq!(
        said(Missed::All, &times),
        [
            "fires: `0 3 * * *` was due at 2026-01-02 03:00 UTC; 3 due times wait for a run",
            "fires: `0 3 * * *` was due at 2026-01-03 03:00 UTC; 2 due times wait for a run",
            "fires: `0 3 * * *` was due at 2026-01-04 03:00 UTC",
            "`0 3 * * *` is next due at 2026-01-05 03:00 UTC, in 14 h 57 min",
        ]
    );
}

#[test]
fn all_does_not_make_up_for_the_time_before_it_was_first_asked() {
    let (trigger, mut memory) = (Schedule::new("* * * * *").unwrap().missed(Missed::All), Memory::default());
    let mut fires = |now: &str| trigger.evaluate(&at_time(now), &mut memory).unwrap().fires();
    assert!(fires("2026-02-01T00:00:30Z"), "the last one");
    assert!(!fires("2026-02-01T00:00:31Z"));
    assert!(fires("2026-02-01T00:02:00Z"));
    assert!(fires("2026-02-01T00:02:01Z"));
    assert!(!fires("2026-02-01T00:02:02Z"));
}

#[test]
fn a_long_backlog_is_told_without_being_counted() {
    let (trigger, mut memory) = (Schedule::new("* * * * *").unwrap().missed(Missed::All), Memory::default());
    trigger.evaluate(&at_time("2026-01-01T12:00:00Z"), &mut memory).unwrap();
    let waits = trigger.evaluate(&at_time("2026-01-09T12:00:00Z"), &mut memory).unwrap();
    assert!(waits.why().text.ends_with("; 20 or more due times wait for a run"), "{}", waits.why());
}

#[cfg(feature = "time-zones")]
mod zones {
    use super::*;

    fn in_zone(pattern: &str, zone: &str) -> Schedule {
        Schedule::new(pattern).unwrap().time_zone(zone).unwrap()
    }

    fn shown(trigger: &Schedule, times: &[DateTime<Utc>]) -> Vec<String> {
        times.iter().map(|time| trigger.shown(*time)).collect()
    }

    /// The times from `from` on at which `trigger` fires, asked every `step` minutes for `hours` hours while no run is in flight.
    fn asked(trigger: &Schedule, from: &str, step: i64, hours: i64) -> Vec<DateTime<Utc>> {
        let (started, mut memory) = (at(from), Memory::default());
        let times = (1..=hours * 60 / step).map(|count| started + TimeDelta::minutes(count * step));
        let status = |now| LoopStatus { now, ..LoopStatus::new(started) };
        times.filter(|now| trigger.evaluate(&status(*now), &mut memory).unwrap().fires()).collect()
    }

    #[test]
    fn a_time_that_spring_skips_and_autumn_repeats_is_due_once() {
        let nightly = in_zone("30 2 * * *", "Europe/Berlin");
        let spring = asked(&nightly, "2026-03-27T12:00:00Z", 10, 72);
        assert_eq!(
            shown(&nightly, &spring),
            ["2026-03-28 02:30 CET", "2026-03-29 03:00 CEST", "2026-03-30 02:30 CEST"]
        );
        let autumn = asked(&nightly, "2026-10-23T12:00:00Z", 10, 72);
        assert_eq!(
            shown(&nightly, &autumn),
            ["2026-10-24 02:30 CEST", "2026-10-25 02:30 CEST", "2026-10-26 02:30 CET"]
        );
    }

    #[test]
    fn a_fixed_time_is_due_once_on_every_day_of_a_year_in_every_zone() {
        // A change of half an hour, one at midnight, one on another day, none, and one before midnight.
        let zones = ["Australia/Lord_Howe", "America/Santiago", "America/New_York", "Asia/Kolkata", "America/Nuuk"];
        for zone in zones {
            for (minute, hour) in [(0, 0), (15, 2), (30, 23)] {
                let daily = in_zone(&format!("{minute} {hour} * * *"), zone);
                let started = at("2025-12-31T12:00:00Z");
                let due: Vec<_> =
                    std::iter::successors(daily.next(started), |due| daily.next(*due)).take(366).collect();
                for pair in due.windows(2) {
                    let apart = (pair[1] - pair[0]).num_minutes();
                    assert!(
                        (22 * 60..=26 * 60).contains(&apart),
                        "{apart} min in {zone} after {}",
                        daily.shown(pair[0])
                    );
                    let found = [pair[0], pair[0] + TimeDelta::hours(1), pair[1] - TimeDelta::seconds(1)];
                    assert_eq!(found.map(|now| daily.newest(now)), [Some(pair[0]); 3], "{}", daily.shown(pair[0]));
                }
                // Of the time of the first to that of the last, a year has passed.
                assert_eq!((due[365] - due[0]).num_days(), 365, "{hour}:{minute} in {zone}");
            }
        }
    }

    #[test]
    fn steps_are_due_in_both_hours_of_the_same_name() {
        let often = in_zone("*/30 * * * *", "Europe/Berlin");
        assert_eq!(asked(&often, "2026-10-24T23:00:00Z", 30, 4).len(), 8);
        assert_eq!(asked(&often, "2026-03-28T23:00:00Z", 30, 4).len(), 8);
    }

    #[test]
    fn the_time_of_the_next_run_is_told_on_the_clocks_of_the_zone() {
        let waits = evaluate(&in_zone("0 3 * * *", "Asia/Tokyo"), &at_time("2026-01-01T12:00:00Z"));
        assert_eq!(waits.why().text, "`0 3 * * *` is next due at 2026-01-02 03:00 JST, in 6 h 0 min");
    }

    #[test]
    fn an_unknown_zone_is_named() {
        let error = Schedule::new("0 3 * * *").unwrap().time_zone("Berlin").unwrap_err().to_string();
        assert!(error.contains("there is no time zone `Berlin`"), "{error}");
    }
}
