use super::*;

pub(crate) fn at(time: &str) -> DateTime<Utc> {
    time.parse().unwrap()
}

/// A loop that was started on 1 January 2026 at noon, where nothing has happened yet.
pub(crate) fn status() -> LoopStatus {
    LoopStatus::new(at("2026-01-01T12:00:00Z"))
}

/// What `trigger` says without any memory.
pub(crate) fn evaluate(trigger: &dyn RetrainTrigger, status: &LoopStatus) -> Decision {
    trigger.evaluate(status, &mut Memory::default()).unwrap()
}

#[test]
fn a_firing_waits_for_the_first_label_and_is_not_forgotten() {
    let (nightly, mut memory) = (schedule("0 3 * * *").unwrap(), Memory::default());
    let mut decide_at = |now: &str, labels| {
        let status = LoopStatus { now: at(now), labels, ..status() };
        decide(&nightly, &status, &mut memory).unwrap()
    };
    let waits = decide_at("2026-01-02T03:00:00Z", 0);
    assert!(!waits.fires());
    assert_eq!(waits.why().text, "`0 3 * * *` was due at 2026-01-02 03:00 UTC; waits for the first label to train on");
    assert!(decide_at("2026-01-02T07:00:00Z", 1).fires());
    assert!(!decide_at("2026-01-02T07:01:00Z", 1).fires());
}

#[test]
fn a_panic_leaves_the_memory_as_it_was() {
    let mut memory = Memory::default();
    let broken = trigger_fn("broken", |_, memory| {
        memory.set("seen", &true)?;
        panic!("no")
    });
    let failed = decide(&broken, &LoopStatus { labels: 1, ..status() }, &mut memory);
    assert!(failed.is_err());
    assert_eq!(memory, Memory::default());
}

#[test]
fn lengths_of_time_are_told_in_two_units() {
    let told = |seconds| span(TimeDelta::seconds(seconds));
    assert_eq!([told(-5), told(42), told(62)], ["0 s", "42 s", "1 min 2 s"]);
    assert_eq!([told(21_599), told(86_400), told(180_000)], ["5 h 59 min", "1 d 0 h", "2 d 2 h"]);
}
