//! No storm of runs: laws that hold for every combination of triggers, over every history.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::stage::Metric;
use crate::trigger::{LabelQuality, Missed, Performance, RetrainTrigger, Schedule, all, harm, not, trigger_fn};

/// Counts of one random trigger: its parts that look at the status, and how often they were asked.
#[derive(Default)]
struct Leaves {
    count: usize,
    asked: Arc<AtomicU64>,
}

impl Leaves {
    /// A random trigger of at most `depth` levels of combination.
    fn trigger(&mut self, rng: &mut StdRng, depth: u32) -> Box<dyn RetrainTrigger> {
        if depth > 0 && rng.random_bool(0.6) {
            let parts: Vec<_> = (0..rng.random_range(1..4)).map(|_| self.trigger(rng, depth - 1)).collect();
            return match rng.random_range(0..3) {
                0 => any(parts),
                1 => all(parts),
                _ => not(any(parts)),
            };
        }
        self.count += 1;
        let asked = self.asked.clone();
        let leaf: Box<dyn RetrainTrigger> = match rng.random_range(0..9) {
            0 => new_labels(rng.random_range(1..60)),
            1 => drift(),
            2 => harm(),
            3 => Coverage::at(0.5).boxed(),
            4 => Performance::below("m", 0.5).recovers_at(0.7).boxed(),
            5 => LabelQuality::falls(0.6, 0.3).boxed(),
            6 => LabelQuality::reaches(0.6, 0.3).boxed(),
            7 => Schedule::new("*/20 * * * *").unwrap().missed(Missed::All).boxed(),
            _ => schedule("7 * * * *").unwrap(),
        };
        let counted = leaf.name().to_owned();
        trigger_fn(counted, move |status, memory| {
            asked.fetch_add(1, Ordering::Relaxed);
            let decision = leaf.evaluate(status, memory)?;
            Ok((decision.fires(), decision.why().text.clone()))
        })
        .boxed()
    }
}

/// A random history of eight hours or so: labels, alarms, batches, coverage, metrics and quality that come and go.
fn history(rng: &mut StdRng) -> Vec<LoopStatus> {
    let mut entry = LoopStatus { last_run: None, ..status() };
    (0..100)
        .map(|_| {
            entry.now += TimeDelta::seconds(rng.random_range(1..600));
            entry.labels += rng.random_range(0..8);
            if rng.random_bool(0.1) {
                entry.open_alarms += 1;
                entry.last_alarm = Some(entry.now);
                if rng.random_bool(0.5) {
                    (entry.open_harm_alarms, entry.last_harm_alarm) = (entry.open_harm_alarms + 1, Some(entry.now));
                }
            }
            if rng.random_bool(0.05) {
                (entry.open_alarms, entry.last_alarm) = (0, None);
                (entry.open_harm_alarms, entry.last_harm_alarm) = (0, None);
                if rng.random_bool(0.5) {
                    entry.sealed_labels += std::mem::take(&mut entry.labels);
                }
            }
            entry.coverage.covered = rng.random();
            entry.coverage.flagged += rng.random_range(0..20);
            entry.coverage.labels += rng.random_range(0..10);
            entry.metrics = vec![Metric { name: "m".into(), value: rng.random(), rows: 200 }];
            entry.label_quality.labels += rng.random_range(0..10);
            entry.label_quality.compared += rng.random_range(0..10);
            entry.label_quality.agreement = Some(rng.random());
            entry.label_quality.quarantined += rng.random_range(0..4);
            entry.clone()
        })
        .collect()
}

fn leaves(why: &Explanation) -> usize {
    if why.parts.is_empty() { 1 } else { why.parts.iter().map(leaves).sum() }
}

#[test]
fn no_combination_fires_in_flight_in_cooldown_or_over_its_budget_and_every_part_is_asked_every_time() {
    let (mut fired, mut busiest) = (0, 0);
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut parts = Leaves::default();
        let gap = minutes(rng.random_range(0..120));
        let budget = rng.random_range(1..6);
        let takes = minutes(rng.random_range(1..90));
        let inner = parts.trigger(&mut rng, 3);
        let evaluated = Arc::new(AtomicU64::new(0));
        let count = evaluated.clone();
        let counted = trigger_fn("root", move |status, memory| {
            count.fetch_add(1, Ordering::Relaxed);
            let decision = inner.evaluate(status, memory)?;
            assert!(!(decision.fires() && status.running), "it fires in flight: {}", decision.why());
            Ok((decision.fires(), decision.why().to_string()))
        });
        let policy = counted.cooldown(gap).daily_budget(budget);
        let found = simulate(&policy, &history(&mut rng), takes).unwrap();
        for pair in found.windows(2) {
            let apart = pair[1].time - pair[0].time;
            assert!(apart >= takes, "seed {seed}: in flight, {apart} after the one before");
            assert!(apart >= gap, "seed {seed}: in cooldown, {apart} after the one before");
        }
        for window in found.windows(budget as usize + 1) {
            let (first, last) = (&window[0], &window[budget as usize]);
            assert!(last.time - first.time >= DAY, "seed {seed}: {} runs within a day", window.len());
        }
        assert!(found.iter().all(|firing| firing.labels > 0), "seed {seed}: nothing to train on");
        let (asked, times) = (parts.asked.load(Ordering::Relaxed), evaluated.load(Ordering::Relaxed));
        assert_eq!(asked, times * parts.count as u64, "seed {seed}: a part was not asked");
        fired += found.len();
        busiest = busiest.max(found.len());
    }
    assert!(fired > 60 && busiest >= 5, "{fired} firings, {busiest} at most: too quiet to prove anything");
}

#[test]
fn every_part_is_explained() {
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut parts = Leaves::default();
        let policy = parts.trigger(&mut rng, 3).cooldown(hours(1)).back_off(minutes(1), hours(1));
        let mut memory = Memory::default();
        for entry in history(&mut rng) {
            let decision = policy.evaluate(&entry, &mut memory).unwrap();
            assert_eq!(leaves(decision.why()), parts.count, "seed {seed}: {}", decision.why());
        }
    }
}
