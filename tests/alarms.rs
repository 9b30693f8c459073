//! Alarms are acknowledged, not cleared, until the serving baseline has moved; their history is only added to.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use feedloop::{
    Alarm, AlarmRecord, AlarmState, Artifact, Ask, Chunk, Detector, Findings, FnTrainer, Level, Lineage, LineageNode,
    ModelVersion, PipelineBuilder, Profile, Reason, Route, RouteContext, RunState, Sample, TrainJob, all, detector_fn,
    drift, new_labels, router_fn,
};
use support::evaluator;
use support::host::Host;

/// Rings once for every time that it is told to.
#[derive(Clone, Default)]
struct Bell(Arc<AtomicBool>);

impl Bell {
    fn ring(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn detector(&self) -> impl Detector + use<> {
        self.detector_of(Level::Drift)
    }

    fn detector_of(&self, level: Level) -> impl Detector + use<> {
        let rings = self.0.clone();
        detector_fn("bell", move |chunk: &Chunk<'_>, findings: &mut Findings| {
            if let Some(sequence) = chunk.sequence().first()
                && rings.swap(false, Ordering::Relaxed)
            {
                let (detector, text, readings) = (String::new(), "it rings".to_owned(), Vec::new());
                findings.alarm(Alarm { detector, level, sequence: *sequence, text, readings });
            }
            Ok(())
        })
    }
}

/// Every candidate is the threshold 0.8.
fn promoting(bell: &Bell) -> impl FnOnce(PipelineBuilder) -> PipelineBuilder + use<> {
    let bell = bell.detector();
    move |builder| {
        builder
            .detect(bell)
            .trigger(new_labels(60))
            .compare(1.0)
            .train(FnTrainer::inline(|_: &TrainJob| Ok(Artifact::Inline(b"0.8".to_vec()))))
            .evaluate(evaluator(Profile::confirm()))
    }
}

/// A loop that never retrains, to look at alarms only.
fn quiet(bell: &Bell) -> impl FnOnce(PipelineBuilder) -> PipelineBuilder + use<> {
    let bell = bell.detector();
    move |builder| {
        let never = all([drift(), new_labels(1_000_000)]);
        builder.detect(bell).trigger(never).evaluate(evaluator(Profile::confirm()))
    }
}

fn states(alarms: &[AlarmRecord]) -> Vec<(u64, AlarmState)> {
    alarms.iter().map(|alarm| (alarm.number, alarm.state())).collect()
}

/// (open, acknowledged) as the status counts them, which must be what it lists.
fn counted(host: &Host) -> (u64, u64) {
    let status = host.pipeline.status().unwrap();
    let listed = |state| status.alarms.iter().filter(|alarm| alarm.state() == state).count() as u64;
    let counted = (status.trigger_view.open_alarms, status.acknowledged_alarms);
    assert_eq!((listed(AlarmState::Open), listed(AlarmState::Acknowledged)), counted);
    assert_eq!(status.trigger_view.last_alarm.is_some(), counted.0 > 0);
    assert!(status.alarms.windows(2).all(|pair| pair[0].number > pair[1].number), "newest first");
    counted
}

#[test]
fn an_alarm_is_open_then_acknowledged_and_stays_so_over_a_restart() {
    let bell = Bell::default();
    let mut host = Host::new(quiet(&bell));
    bell.ring();
    host.turn(10, 0.5);
    assert_eq!(counted(&host), (1, 0));
    let raised = host.pipeline.alarms(None, 10).unwrap();
    assert_eq!(states(&raised), [(1, AlarmState::Open)]);
    assert_eq!((raised[0].alarm.detector.as_str(), raised[0].alarm.text.as_str()), ("bell", "it rings"));

    host.restart(quiet(&bell));
    assert_eq!(counted(&host), (1, 0));
    let view = host.pipeline.status().unwrap().trigger_view;
    assert_eq!(view.last_alarm, Some(raised[0].raised), "as before the restart");

    host.clock.advance(feedloop::chrono::TimeDelta::minutes(5));
    host.pipeline.poll().unwrap();
    assert_eq!(host.pipeline.acknowledge_alarms("ada").unwrap(), 1);
    assert_eq!(host.pipeline.acknowledge_alarms("bob").unwrap(), 0, "ada was first");
    assert_eq!(counted(&host), (0, 1));
    let known = host.pipeline.alarms(None, 10).unwrap();
    let acknowledged = known[0].acknowledged.clone().unwrap();
    assert_eq!((acknowledged.who.as_str(), known[0].raised), ("ada", raised[0].raised));
    assert!(acknowledged.when > raised[0].raised && known[0].alarm == raised[0].alarm);

    // It does not fire again; the next one does.
    host.pipeline.poll().unwrap();
    let why = |host: &Host| host.pipeline.status().unwrap().decision.unwrap().why().to_string();
    assert!(why(&host).contains("drift: no open alarm"), "{}", why(&host));
    host.restart(quiet(&bell));
    assert_eq!(counted(&host), (0, 1));
    assert_eq!(host.pipeline.alarms(None, 10).unwrap(), known);
    bell.ring();
    host.turn(10, 0.5);
    assert_eq!(
        states(&host.pipeline.alarms(None, 10).unwrap()),
        [(2, AlarmState::Open), (1, AlarmState::Acknowledged)]
    );
    assert!(why(&host).contains("drift: 1 open alarm"), "{}", why(&host));
}

/// What the router is told of alarms: is one open, does one stand?
#[derive(Clone, Default)]
struct Told(Arc<Mutex<(bool, bool)>>);

impl Told {
    fn router(&self, builder: PipelineBuilder) -> PipelineBuilder {
        let told = self.0.clone();
        builder.route(router_fn("onlooker", move |_: &Sample, context: &RouteContext<'_>| {
            *told.lock().unwrap() = (context.alarm, context.standing);
            Ok(Route::ask(Ask { priority: 0.0, overlap: 1, blind: true }, Reason::new("asked", "everything")))
        }))
    }

    fn next(&self, host: &mut Host) -> (bool, bool) {
        host.turn(80, 0.8);
        *self.0.lock().unwrap()
    }
}

/// The reserve of a budget must not close when a run begins: labels are wanted until a model is kept.
#[test]
fn an_alarm_stands_for_the_router_until_the_baseline_has_moved() {
    let (bell, told) = (Bell::default(), Told::default());
    let mut host = Host::new(|builder| told.router(promoting(&bell)(builder)));
    assert_eq!(told.next(&mut host), (false, false));
    bell.ring();
    host.turn(10, 0.8);
    assert_eq!(told.next(&mut host), (true, true));
    let version = promote(&mut host);
    assert_eq!(counted(&host), (0, 1), "the run has taken note");
    assert_eq!(told.next(&mut host), (false, true));
    while host.pipeline.status().unwrap().kept != Some(version) && host.served < 6_000 {
        host.turn(250, 0.8);
    }
    assert_eq!(counted(&host), (0, 0));
    assert_eq!(told.next(&mut host), (false, false));

    // As it stands over a restart.
    let mut host = Host::new(quiet(&bell));
    bell.ring();
    host.turn(10, 0.8);
    host.pipeline.acknowledge_alarms("ada").unwrap();
    host.restart(|builder| told.router(quiet(&bell)(builder)));
    assert_eq!(told.next(&mut host), (false, true));
}

#[test]
fn a_warning_is_shown_and_nothing_follows() {
    let bell = Bell::default();
    let warning = |bell: &Bell| {
        let bell = bell.detector_of(Level::Warning);
        move |builder: PipelineBuilder| builder.detect(bell).trigger(drift()).evaluate(evaluator(Profile::confirm()))
    };
    let mut host = Host::new(warning(&bell));
    bell.ring();
    host.turn(10, 0.5);
    host.restart(warning(&bell));
    assert_eq!(states(&host.pipeline.alarms(None, 10).unwrap()), [(1, AlarmState::Warning)]);
    assert_eq!((counted(&host), host.pipeline.status().unwrap().alarms.len()), ((0, 0), 1));
    assert_eq!(host.pipeline.acknowledge_alarms("ada").unwrap(), 0);
}

#[test]
fn alarms_are_listed_in_pages_newest_first() {
    let bell = Bell::default();
    let mut host = Host::new(quiet(&bell));
    for _ in 0..45 {
        bell.ring();
        host.turn(2, 0.5);
        host.pipeline.acknowledge_alarms("ada").unwrap();
    }
    let numbers = |before, limit| -> Vec<u64> {
        host.pipeline.alarms(before, limit).unwrap().iter().map(|alarm| alarm.number).collect()
    };
    assert_eq!(numbers(None, 3), [45, 44, 43]);
    assert_eq!(numbers(Some(43), 40), (3..43).rev().collect::<Vec<_>>());
    assert_eq!(numbers(Some(3), 40), [2, 1]);
    assert_eq!((numbers(Some(1), 40).len(), numbers(None, 0).len(), numbers(Some(99), 1)), (0, 0, vec![45]));
    let status = host.pipeline.status().unwrap();
    assert_eq!((status.alarms.len(), status.acknowledged_alarms), (20, 45));
    assert_eq!(status.alarms[0].number, 45);
}

/// Drives `host` until it is promoted.
fn promote(host: &mut Host) -> ModelVersion {
    for _ in 0..40 {
        if host.pipeline.champion().0 > 0 {
            return host.pipeline.champion();
        }
        host.turn(80, 0.8);
    }
    panic!("no promotion: {:?}", host.run_states());
}

fn keep(host: &mut Host, version: ModelVersion) {
    for _ in 0..20 {
        if host.pipeline.status().unwrap().kept == Some(version) {
            return;
        }
        host.turn(80, 0.8);
    }
    panic!("not kept: {:?}", host.run_states());
}

#[test]
fn only_a_baseline_that_moved_clears_and_a_rollback_brings_it_back() {
    let bell = Bell::default();
    let mut host = Host::new(promoting(&bell));
    bell.ring();
    host.turn(10, 0.8);
    let version = promote(&mut host);
    // The run that sealed the labels has taken note of the alarm; the promotion alone clears nothing.
    let known = host.pipeline.alarms(None, 10).unwrap();
    assert_eq!(states(&known), [(1, AlarmState::Acknowledged)]);
    assert_eq!(known[0].acknowledged.as_ref().unwrap().who, "run-1");
    assert_eq!(host.pipeline.references().serving.model(), ModelVersion::FIRST);
    assert_eq!(host.pipeline.status().unwrap().cumulative_drift, []);

    // One that is still open when the baseline moves is as much of the past.
    while host.pipeline.status().unwrap().kept != Some(version) && host.served < 6_000 {
        bell.ring();
        host.turn(250, 0.8);
    }
    keep(&mut host, version);
    assert!(host.run_states().contains(&RunState::Kept));
    assert_eq!(host.pipeline.references().serving.model(), version);
    assert_eq!(counted(&host), (0, 0));
    let cleared = host.pipeline.alarms(None, 1_000).unwrap();
    assert!(cleared.len() > 1);
    for alarm in &cleared {
        let why = alarm.cleared.as_ref().unwrap_or_else(|| panic!("{alarm:?}"));
        assert_eq!((why.version, why.reason.code.as_str()), (version, "baseline_moved"));
        assert!(why.reason.detail.contains(&version.to_string()) && why.when >= alarm.raised);
    }
    let first = cleared.last().unwrap();
    assert_eq!(first.acknowledged, known[0].acknowledged, "what was known before is known still");
    let drift = host.pipeline.status().unwrap().cumulative_drift;
    assert_eq!(drift.len(), 2, "both columns, though the stream has not drifted: {drift:?}");

    // All of it survives a restart.
    host.restart(promoting(&bell));
    assert_eq!(host.pipeline.references().serving.model(), version);
    assert_eq!(host.pipeline.alarms(None, 1_000).unwrap(), cleared);
    assert_eq!((counted(&host), host.pipeline.status().unwrap().cumulative_drift), ((0, 0), drift));

    // A later rollback brings the baseline back; alarms stay what they are, also the one that is raised against it.
    bell.ring();
    host.turn(10, 0.8);
    host.pipeline.acknowledge_alarms("ada").unwrap();
    let before = host.pipeline.alarms(None, 1_000).unwrap();
    assert_eq!(before[0].state(), AlarmState::Acknowledged);
    host.pipeline.rollback("a person says so").unwrap();
    host.pipeline.poll().unwrap();
    assert_eq!(host.pipeline.champion(), ModelVersion::FIRST);
    assert_eq!(host.pipeline.references().serving.model(), ModelVersion::FIRST);
    assert_eq!(host.pipeline.references().serving.rows(), host.pipeline.references().anchor.rows());
    assert_eq!(host.pipeline.alarms(None, 1_000).unwrap(), before);
    let effects: Vec<f64> = host.pipeline.status().unwrap().cumulative_drift.iter().map(|r| r.effect).collect();
    assert_eq!(effects, [0.0, 0.0]);
    let rolled_back = |lineage: Lineage| lineage.nodes.iter().any(|node| matches!(node, LineageNode::Promotion(_)));
    assert!(rolled_back(host.pipeline.lineage(version).unwrap()));
}

#[test]
fn a_rollback_under_watch_leaves_alarms_acknowledged() {
    let bell = Bell::default();
    let mut host = Host::new(promoting(&bell));
    bell.ring();
    host.turn(10, 0.8);
    promote(&mut host);
    host.pipeline.acknowledge_alarms("ada").unwrap();
    let before = host.pipeline.alarms(None, 10).unwrap();
    host.pipeline.rollback("a person says so").unwrap();
    host.pipeline.poll().unwrap();
    assert_eq!(host.pipeline.champion(), ModelVersion::FIRST);
    assert_eq!(host.pipeline.alarms(None, 10).unwrap(), before);
    assert_eq!((counted(&host), before[0].state()), ((0, 1), AlarmState::Acknowledged));
}
